"""The messages of jobs and of the connection, and what all messages are made of; each is typed once.

A message is one msgspec struct, sent as msgpack in frame 0; its arrays follow as raw bytes (see `framing`). All
fields are bounded here, so that decoding is validating: what decodes is safe to act on.

Angles are degrees, colours are sRGB, images are straight-alpha RGBA with the top row first, and meshes stand in the
object frame: right-handed, Z up, the input camera on the -Y side (azimuth 0).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

PROTOCOL_VERSION = 3
"""Raised whenever a message changes so that an older peer would misread it."""

MAX_PICTURE_SIDE = 16_384
"""Longest side of a submitted picture, in pixels."""

MAX_EXTRA_PICTURES = 4
"""Pictures that may be sent beside the first."""

SINGLE_OBJECT = "a single object, centred, plain white background"
"""What is added to a prompt, unless that is not wanted: pictures that a mesh can be made from."""

Name = Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z0-9_.:/-]*\Z")]
JobId = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9-]+\Z")]
Text = Annotated[str, Meta(max_length=4096)]
LongText = Annotated[str, Meta(max_length=65_536)]
MAX_NOTES, MAX_NOTE = 16, 512
"""Sentences about a picture in one message, and characters of each."""
Notes = Annotated[tuple[Annotated[str, Meta(max_length=MAX_NOTE)], ...], Meta(max_length=MAX_NOTES)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Prompt = Annotated[str, Meta(max_length=1000)]
Seed = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Elevation = Annotated[float, Meta(ge=-90.0, le=90.0)]
PictureCoordinate = Annotated[float, Meta(ge=0.0, le=MAX_PICTURE_SIDE)]
FieldOfView = Annotated[float, Meta(ge=1.0, le=120.0)]
Commercial = Literal["yes", "no", "conditions", "unknown"]
"""Whether a licence allows commercial use; "conditions" if only under some."""
Option = bool | int | float | Annotated[str, Meta(max_length=1024)]


class ArraySpec(Struct, frozen=True):
    """One array that follows frame 0, in the order of the message's `arrays`."""

    name: Name
    dtype: Annotated[str, Meta(pattern=r"^[|<](u1|i4|i8|f4|f8|b1)\Z")]
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**31)], ...], Meta(max_length=5)]


class Message(Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all messages; `arrays` describes the raw frames that follow."""

    arrays: Annotated[tuple[ArraySpec, ...], Meta(max_length=64)] = ()


# --------------------------------------------------------------------------------------------------- shared parts


class SubjectPoint(Struct, frozen=True, kw_only=True):
    """A point in the picture, in its pixels (top row first, centres at +0.5), that is on the subject or is not."""

    x: PictureCoordinate
    y: PictureCoordinate
    subject: bool = True


class Direction(Struct, frozen=True, kw_only=True):
    """From where a further picture was taken or a view is wanted, about the object, in degrees."""

    azimuth_deg: Annotated[float, Meta(ge=-360.0, le=360.0)]
    """From the picture's camera; positive moves the camera to its right, counter-clockwise seen from above."""
    elevation_deg: Elevation | None = None
    """Above the horizon; None is the picture's own."""


class Settings(Struct, frozen=True, kw_only=True):
    """What an artist can ask of a job; the same for every pipeline. `options` holds the pipeline's own settings."""

    seed: Seed = 0
    variants: Annotated[int, Meta(ge=1, le=16)] = 1
    elevation_deg: Elevation | None = None
    """Elevation of the picture's camera above the horizon; None asks the backend to find it."""
    fov_deg: FieldOfView | None = None
    """Vertical field of view of the picture's camera; None takes the pipeline's own."""
    resolution: Annotated[int, Meta(ge=16, le=512)] = 128
    """Marching-cubes cells along the longest side of the object's cube."""
    target_faces: Annotated[int, Meta(ge=100, le=4_000_000)] | None = None
    """Decimate to about this many triangles; None keeps them all."""
    quality: Literal["draft", "standard", "fine"] = "standard"
    matting: Literal["auto", "sam", "rembg", "grabcut"] = "auto"
    """What finds the subject of a picture that has no alpha."""
    subject_box: tuple[PictureCoordinate, PictureCoordinate, PictureCoordinate, PictureCoordinate] | None = None
    """Left, top, right and bottom of the subject, in pixels of the picture."""
    subject_points: Annotated[tuple[SubjectPoint, ...], Meta(max_length=64)] = ()
    extra_pictures: Annotated[tuple[Direction, ...], Meta(max_length=MAX_EXTRA_PICTURES)] = ()
    """Where further pictures of the subject were taken from, for pipelines that take several; in the order in which
    they are sent."""
    look_from: Annotated[tuple[Direction, ...], Meta(max_length=64)] = ()
    """Views that are wanted instead of a mesh, from pipelines that draw any; the result has them, and an empty mesh."""
    options: Annotated[dict[Name, Option], Meta(max_length=64)] = {}


class OptionSpec(Struct, frozen=True, kw_only=True):
    """One setting of a pipeline's own: enough for Blender to draw it and for the backend to check it."""

    name: Name
    label: Text
    description: Text
    default: Option
    """What it is where it is left out; of an automatic one, what somebody who sets it begins with."""
    automatic: bool = False
    """Whether it is chosen to suit the job, its quality and its weights, where it is left out."""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


class PipelineInfo(Struct, frozen=True, kw_only=True):
    """A pipeline as the backend offers it."""

    name: Name
    label: Text
    description: Text
    options: Annotated[tuple[OptionSpec, ...], Meta(max_length=64)] = ()
    ready: bool = True
    """False when its weights are missing."""
    hint: Text = ""
    """What to install: for it to be ready, or for more of its weights to be used."""
    licence: Text = ""
    several_pictures: bool = False
    """Whether it takes `Settings.extra_pictures`."""
    splats: bool = False
    """Whether Gaussians come with its meshes, as the array `splats` of `Result`."""
    novel_views: bool = False
    """Whether it draws the views of `Settings.look_from`."""


class PainterInfo(Struct, frozen=True, kw_only=True):
    """A painter, which draws pictures from text, as the backend offers it."""

    name: Name
    label: Text
    ready: bool = True
    """False when its weights are missing; `hint` says what to do."""
    hint: Text = ""
    licence: Text = ""
    commercial: Commercial = "unknown"
    """Whether what it draws may be used commercially, by the licence of its weights."""


class DeviceInfo(Struct, frozen=True, kw_only=True):
    """A device that runs jobs. Memory in bytes, 0 where it is not known."""

    name: Text
    kind: Literal["cpu", "cuda", "mps"]
    memory_total: Count = 0
    memory_used: Count = 0


class Framing(Struct, frozen=True, kw_only=True):
    """The square cut out of the picture that the pipeline worked on, in pixels of the picture (top row first).

    The square may reach beyond the picture. Its centre and side are real numbers; the view camera looks through its
    centre.
    """

    center_x: float
    center_y: float
    side: float


class ViewCamera(Struct, frozen=True, kw_only=True):
    """An orbit camera about the object frame's origin: degrees; distance in object units."""

    elevation_deg: float
    azimuth_deg: float
    distance: float
    fov_deg: float


class Report(Struct, frozen=True, kw_only=True):
    """What was done, enough to repeat and to judge it."""

    pipeline: Name
    seed: Seed
    settings: Settings
    elevation_deg: float
    elevation_source: Literal["given", "estimated", "assumed"]
    elevation_spread_deg: float
    """One standard deviation of the estimate; 0 when given."""
    elevation_confidence: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    """How far the estimate is to be trusted; None where nothing was measured."""
    camera: ViewCamera
    """The input picture's camera, looking through the framed square."""
    framing: Framing
    seconds: dict[str, float]
    """Stage name -> seconds; a stage answered by the cache counts the seconds that this took."""
    cached: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    weights: Text = ""
    """What drew and built it: a name of the backend's catalogue, or "tiny" for those that ship with it."""
    versions: dict[str, str] = {}
    device: str = ""


class PictureReport(Struct, frozen=True, kw_only=True):
    """How a picture was drawn, enough to draw it again."""

    prompt: Prompt
    negative_prompt: Prompt = ""
    single_object: bool = True
    """Whether `SINGLE_OBJECT` was added to the prompt."""
    seed: Seed = 0
    steps: Count = 0
    guidance: float = 0.0
    painter: Name
    label: Text = ""
    """The painter's name for people."""
    licence: Text = ""
    commercial: Commercial = "unknown"
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    device: str = ""


class JobSummary(Struct, frozen=True, kw_only=True):
    """A job as the journal knows it."""

    job: JobId
    pipeline: Name
    """The painter's name where a picture was asked for."""
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    created: float
    """Seconds since the epoch."""
    label: Text = ""
    variants_done: int = 0
    last_event: Count = 0


# ----------------------------------------------------------------------------------------------- client -> backend


class Hello(Message, tag="hello", frozen=True, kw_only=True):
    """First message of a client. Left untyped beyond the version so that any version can say it."""

    protocol: int
    client: Text = ""


class Submit(Message, tag="submit", frozen=True, kw_only=True):
    """Asks for meshes from a picture.

    Arrays: `picture`, uint8 [H, W, 4]; left out when `picture_of` names an earlier job whose picture is meant, the
    one that it was sent to or that drew it. An optional `matte`, uint8 [H, W], replaces background removal. `extra_0`,
    `extra_1`, ..., uint8 [H, W, 4], are the pictures that `settings.extra_pictures` tells the directions of.
    """

    request: JobId
    """The client's own id; submitting the same one twice is one job, so that a retry is safe."""
    pipeline: Name
    settings: Settings
    label: Text = ""
    picture_of: JobId | None = None


class Imagine(Message, tag="imagine", frozen=True, kw_only=True):
    """Asks for a picture from a text: a job like any other, which ends with `Imagined`."""

    request: JobId
    """As that of `Submit`."""
    prompt: Prompt
    negative_prompt: Prompt = ""
    """What the picture shall not show."""
    single_object: bool = True
    """Adds `SINGLE_OBJECT` to the prompt."""
    seed: Seed = 0
    painter: Name = ""
    """One that `Welcome` lists; "" takes the first that is ready."""
    steps: Annotated[int, Meta(ge=1, le=200)] | None = None
    """Denoising steps; None takes the painter's own."""
    guidance: Annotated[float, Meta(ge=0.0, le=50.0)] | None = None
    """How strongly the picture follows the prompt; None takes the painter's own."""

    @property
    def text(self) -> str:
        """The whole of what is painted."""
        prompt = self.prompt.strip().rstrip(",.")
        return f"{prompt}, {SINGLE_OBJECT}" if self.single_object else prompt


class Cancel(Message, tag="cancel", frozen=True, kw_only=True):
    """Stops a job within one denoising step."""

    job: JobId


class Keep(Message, tag="keep", frozen=True, kw_only=True):
    """Ends a job's drawing now and builds the result from what there is: *Keep This One*."""

    job: JobId


class Attach(Message, tag="attach", frozen=True, kw_only=True):
    """Replays a job's events after `last_seen`, then its results, then follows it live."""

    job: JobId
    last_seen: Count = 0


class Jobs(Message, tag="jobs", frozen=True, kw_only=True):
    """Asks for `JobList`."""


class Ping(Message, tag="ping", frozen=True, kw_only=True):
    """Asks for `Pong`."""


class FreeMemory(Message, tag="free_memory", frozen=True, kw_only=True):
    """Drops cached stages and loaded weights that no job is using; answered with `Pong`."""


class Shutdown(Message, tag="shutdown", frozen=True, kw_only=True):
    """Stops the backend; running jobs are cancelled, results stay in the journal."""


# ----------------------------------------------------------------------------------------------- backend -> client


class Welcome(Message, tag="welcome", frozen=True, kw_only=True):
    """Answers `Hello`."""

    protocol: int
    version: Text
    devices: tuple[DeviceInfo, ...]
    pipelines: tuple[PipelineInfo, ...]
    painters: tuple[PainterInfo, ...] = ()


class Accepted(Message, tag="accepted", frozen=True, kw_only=True):
    """Answers `Submit` and `Imagine` at once."""

    request: JobId
    job: JobId
    queue_position: Count
    """0 when it starts now."""


class Event(Message, tag="event", frozen=True, kw_only=True):
    """Progress of a job, numbered from 1 without gaps.

    Arrays of a preview, all optional: `vertices` float32 [N, 3], `faces` int32 [M, 3] (none for a point cloud),
    `colors` uint8 [N, 4]; `views` uint8 [V, H, W, 4], `cutout` uint8 [H, W, 4].
    """

    job: JobId
    number: Count
    stage: Text
    """For people, in Title Case: "Drawing Views"."""
    step: Count = 0
    total: Count = 0
    fraction: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    """Of the whole job."""
    remaining_seconds: float | None = None
    queue_position: Count = 0
    variant: Count = 0
    can_keep: bool = False
    notes: Notes = ()
    """What will spoil the shape, told before the heavy work: "Touches the left border: the shape will be cut." """
    framing: Framing | None = None
    """Where `cutout` lies in the picture."""


class Result(Message, tag="result", frozen=True, kw_only=True):
    """One finished variant; the job is done after `index == count - 1`.

    Arrays: `vertices` float32 [N, 3], `faces` int32 [M, 3], `colors` uint8 [N, 4], `views` uint8 [V, H, W, 4],
    `cutout` uint8 [S, S, 4] (the framed picture that the pipeline saw). From pipelines that reconstruct Gaussians also
    `splats` float32 [K, 14], in the object frame: centre (3), unit quaternion w x y z (4), standard deviations along
    its axes (3), opacity, sRGB colour in 0..1 (3).
    """

    job: JobId
    index: Count
    count: Count
    report: Report
    view_cameras: tuple[ViewCamera, ...] = ()


class Imagined(Message, tag="imagined", frozen=True, kw_only=True):
    """The finished picture; its job is done. Arrays: `picture`, uint8 [H, W, 4]."""

    job: JobId
    report: PictureReport

    @property
    def index(self) -> int:
        """As that of a `Result`: a job makes one picture."""
        return 0

    @property
    def count(self) -> int:
        """See `index`."""
        return 1


class Failed(Message, tag="failed", frozen=True, kw_only=True):
    """A request or a job that cannot be done. `sentence` and `hint` are for artists, `details` for a log."""

    code: Name
    sentence: Text
    hint: Text = ""
    field: Text = ""
    """The setting or array at fault, where there is one."""
    details: LongText = ""
    job: JobId | None = None
    request: JobId | None = None


class Cancelled(Message, tag="cancelled", frozen=True, kw_only=True):
    """A job that was stopped on request."""

    job: JobId


class JobList(Message, tag="job_list", frozen=True, kw_only=True):
    """Answers `Jobs`, newest first."""

    jobs: tuple[JobSummary, ...]


class Pong(Message, tag="pong", frozen=True, kw_only=True):
    """Answers `Ping`; carries what a status line shows."""

    devices: tuple[DeviceInfo, ...] = ()
    running: Count = 0
    queued: Count = 0
