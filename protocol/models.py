"""The messages about models: what the backend's catalogue has, and what is done to the weights on its machine."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .messages import Commercial, Count, Failed, Message, Name, Text

Gigabytes = Annotated[float, Meta(ge=0.0, le=1e6)]


# ----------------------------------------------------------------------------------------------- client -> backend


class Models(Message, tag="models", frozen=True, kw_only=True):
    """Asks for `ModelList`, and for news of the models as long as this connection stands."""


class InstallModel(Message, tag="install_model", frozen=True, kw_only=True):
    """Has the backend download a model; how it goes is told in `ModelList` and `ModelProgress`.

    Asking for one that is being installed, or waits to be, changes nothing, so that a retry is safe.
    """

    name: Name
    """As `ModelList` calls it."""
    accept_licence: bool = False
    """Whoever asks accepts its licence, where `ModelInfo.needs_acceptance`."""


class ImportModel(Message, tag="import_model", frozen=True, kw_only=True):
    """Has the backend convert a model that is on its machine; for clients on that machine only."""

    name: Name
    path: Annotated[str, Meta(min_length=1, max_length=4096)]
    """Of the published file, or the folder with the published files."""


class RemoveModel(Message, tag="remove_model", frozen=True, kw_only=True):
    """Has the backend delete an installed model, and what may be left of its download."""

    name: Name


class CancelModel(Message, tag="cancel_model", frozen=True, kw_only=True):
    """Stops what is done to a model; what has been downloaded is kept for the next time."""

    name: Name


ModelOrder = InstallModel | ImportModel | RemoveModel


# ----------------------------------------------------------------------------------------------- backend -> client


class ModelInfo(Struct, frozen=True, kw_only=True):
    """A model's weights as the backend's catalogue has them."""

    name: Name
    title: Text
    pipeline: Name
    """What uses it: a pipeline's name, or "text-to-image"."""
    licence: Text = ""
    """"" where the source states none."""
    licence_page: Text = ""
    """Where it can be read; "" where there is no such page."""
    commercial: Commercial = "unknown"
    source: Text = ""
    """The host that it is downloaded from; "" if nobody publishes it."""
    needs_acceptance: bool = False
    """Whether `InstallModel` has to accept the licence."""
    size_gb: Gigabytes | None = None
    """Of the download; None where that is not known."""
    memory_gb: Gigabytes | None = None
    """Of the device, that a run needs; None where that is not known."""
    note: Text = ""
    shipped: bool = False
    """It is a part of the backend and stays."""
    state: Literal["absent", "waiting", "working", "present"]
    """"working" while it is installed, imported or removed; "waiting" while another one is."""
    failed: Failed | None = None
    """Why the last attempt failed; None after one that did not."""


class ModelList(Message, tag="model_list", frozen=True, kw_only=True):
    """Answers `Models`, and is sent again whenever a model's state changes."""

    models: Annotated[tuple[ModelInfo, ...], Meta(max_length=1024)]
    progress: ModelProgress | None = None
    """Of the one that is "working", as it was told last."""


class ModelProgress(Message, tag="model_progress", frozen=True, kw_only=True):
    """How far the work on a model is; each tells all, so that one that is lost does not matter."""

    name: Name
    stage: Text
    """For people, in Title Case: "Downloading"."""
    done: Count = 0
    """Bytes."""
    total: Count = 0
    """Bytes; 0 if not known."""
