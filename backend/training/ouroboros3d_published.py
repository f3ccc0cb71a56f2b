"""`turnaround train ouroboros3d-published`: both networks at their published size, trained as the published code does.

    picture, noise -> views (the first pass) -> Gaussians -> their colours and coordinates -> views (the second pass)

Half of the batches end with the first pass, the others with the second, whose loss then counts instead of the first's.
The reconstructor learns from the first pass's views, told how noisy they were, from the true ones, and from the second
pass, which is shown what it made. Nothing is learned through the autoencoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backend.evaluation.lpips import Lpips, installed_lpips
from backend.generators.multiview_svd.model import MultiviewModel
from backend.generators.multiview_svd.network import Cameras, Maps
from backend.generators.multiview_svd.sampling import no_feedback
from backend.geometry.gaussians.render import Rendered, render
from backend.pipelines.ouroboros3d.feedback import maps_seen
from backend.reconstructors.lgm.config import OUROBOROS3D, LGMConfig
from backend.reconstructors.lgm.network import LGM
from backend.reconstructors.lgm.rays import network_input
from backend.training.data.meshes import split_meshes
from backend.training.data.rounds import RoundBatch, Rounds, RoundSpec
from backend.training.loop import LoopConfig
from backend.training.loop import train as run_loop
from backend.training.multiview_svd import Noised, NoiseLevels, Orbits, add_noise, denoise_once
from backend.training.ouroboros3d import SCORED_SIGMAS, Ouroboros3DConfig, unit
from backend.training.ouroboros3d_start import GENERATOR, RECONSTRUCTOR, Start, load_start
from backend.training.processes import own_device
from backend.weights.store import load_into, save_weights

NAME = "ouroboros3d-published"

SCORED = 4
"""Validation rounds at every score."""

ELSEWHERE = 4
"""Views that are not of the orbit, by which validation rounds are judged."""


@dataclass(frozen=True)
class Ouroboros3DTraining:
    """All settings of a run; the defaults are the published code's.

    Attributes:
        rounds: what is learned from.
        reconstructor: its sizes and conventions; the generator's are the video model's.
        noise: how much of it, and how often there is no picture.
        self_conditioning: probability of the second pass.
        learning_rate: AdamW's, the same from the first step to the last.
        batch_size: rounds of a batch on each device.
        accumulate: batches a step.
        steps: in all.
        ema_half_life: in steps, of averaged weights; None keeps none, which saves the memory of a second generator.
        precision: "bf16" or "no"; None takes bf16 on CUDA. The published fp16 needs its losses scaled and steps left
            out where that overflows; bf16 reaches as far as float32. Weights and the optimizer's state are float32.
        half: write the weights as float16.
        save_every_minutes: between checkpoints and scores.
        log_every: steps between looks at the loss.
        seed: of new weights and batches.
    """

    rounds: RoundSpec = field(default_factory=RoundSpec)
    reconstructor: LGMConfig = OUROBOROS3D
    noise: NoiseLevels = field(default_factory=NoiseLevels)
    self_conditioning: float = 0.5
    learning_rate: float = 1e-5
    batch_size: int = 1
    accumulate: int = 4
    steps: int = 40_000
    ema_half_life: int | None = None
    precision: str | None = None
    half: bool = True
    save_every_minutes: float = 15.0
    log_every: int = 10
    seed: int = 0

    def adamw(self, objective: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
        """One optimizer for all weights."""
        return [torch.optim.AdamW(objective.parameters(), config.learning_rate)]

    def constant(self, config: LoopConfig, step: int, progress: float) -> float:
        """Share of the learning rate at a step."""
        return 1.0


def chosen(
    *, steps: int | None = None, batch_size: int | None = None, learning_rate: float | None = None
) -> Ouroboros3DTraining:
    """The published settings but for those that are given."""
    given: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    return Ouroboros3DTraining(**{name: value for name, value in given.items() if value is not None})


class PublishedObjective(nn.Module):
    """Both networks, each learning from the other; only they are modules, so that nothing else is trained or stored.

    Args:
        model: of the views; its network is trained.
        reconstructor: of the Gaussians; trained.
        distance: LPIPS; None judges by colours alone.
        training: see there.
    """

    def __init__(
        self, model: MultiviewModel, reconstructor: LGM, distance: Lpips | None, training: Ouroboros3DTraining
    ) -> None:
        super().__init__()
        self.network = nn.ModuleDict({GENERATOR: model.network, RECONSTRUCTOR: reconstructor})
        self.settings, self.step = training, 0
        self._hidden = (model, distance, reconstructor)  # in a tuple: not among what is trained and stored

    @property
    def model(self) -> MultiviewModel:
        """The generator with its frozen autoencoder and image encoder."""
        return self._hidden[0]

    @property
    def frames(self) -> int:
        """Views of an orbit."""
        return self.model.config.frames

    def draw(self, data: Rounds, size: int, generator: torch.Generator) -> tuple[RoundBatch, torch.Generator]:
        """A batch and the source of all that is random."""
        return data.batch(size, generator), generator

    def forward(self, batch: RoundBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The parts of the loss."""
        orbit, settings = batch.pictures[:, : self.frames], self.settings
        noised = self._noised(batch, generator, settings.noise)
        twice = float(torch.rand(1, generator=generator)) < settings.self_conditioning
        with torch.set_grad_enabled(not twice):
            error, drawn = denoise_once(self.model, noised, self._nothing(batch))
        looks = [
            self._look(batch, self._pictures(drawn), noised.timestep),
            self._look(batch, orbit, torch.zeros_like(noised.timestep)),
        ]
        if twice:
            error, _ = denoise_once(self.model, noised, self._maps(batch, looks[0]))
        seen = torch.stack([look.colors.movedim(-1, -3) for look in looks])
        truth = batch.pictures.expand_as(seen)
        parts = {"denoising": error.mean(), "color": (seen - truth).abs().mean()}
        distance = self._hidden[1]
        if distance is not None:
            with full_precision(seen):
                parts["perceptual"] = distance(seen.flatten(0, 2), truth.flatten(0, 2)).mean()
        return parts

    @staticmethod
    def total(parts: dict[str, Tensor]) -> Tensor:
        """The sum, as published."""
        return torch.stack(list(parts.values())).sum()

    @torch.no_grad()
    def score(self, data: Rounds) -> dict[str, float]:
        """PSNR in dB of validation rounds.

        Of views drawn in one step from noise of given strengths, without feedback and with it, the input's own left
        out; and of the Gaussians of the true views, seen from these and from elsewhere.
        """
        rows = [self._scores(data.take([index])) for index in range(min(SCORED, len(data)))]
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def _scores(self, batch: RoundBatch) -> dict[str, float]:
        orbit, scores = batch.pictures[:, : self.frames], {}
        for sigma in SCORED_SIGMAS:
            level = NoiseLevels(mean=math.log(sigma), std=0.0, dropout=0.0)
            noised = self._noised(batch, torch.Generator().manual_seed(0), level)
            feedback = self._nothing(batch)
            for name in ("psnr", "fed"):
                pictures = self._pictures(denoise_once(self.model, noised, feedback)[1])
                scores[f"{name}_{sigma:g}"] = psnr(pictures[:, 1:], orbit[:, 1:])
                feedback = self._maps(batch, self._look(batch, pictures, noised.timestep))
        seen = self._look(batch, orbit, orbit.new_zeros(len(orbit))).colors.movedim(-1, -3)
        scores["gaussians"] = psnr(seen[:, : self.frames], orbit)
        scores["gaussians_elsewhere"] = psnr(seen[:, self.frames :], batch.pictures[:, self.frames :])
        return scores

    def _noised(self, batch: RoundBatch, generator: torch.Generator, levels: NoiseLevels) -> Noised:
        """The frozen encoders' part, in full precision: half would add noise of its own to the least noisy latents."""
        views = batch.pictures[:, : self.frames] * 2 - 1
        with full_precision(views), torch.no_grad():
            return add_noise(self.model, Orbits(views, self._orbit(batch)), generator, levels)

    def _nothing(self, batch: RoundBatch) -> Maps:
        return no_feedback(self.model.config, len(batch.pictures), batch.pictures.device)

    def _pictures(self, latents: Tensor) -> Tensor:
        """In 0..1, of clean latents; nothing is learned through the decoder, as published."""
        with full_precision(latents), torch.no_grad():
            return unit(self.model.pictures(latents))

    def _look(self, batch: RoundBatch, pictures: Tensor, timestep: Tensor) -> Rendered:
        """What all cameras of the batch see of the Gaussians that are made of an orbit's pictures."""
        reconstructor, size = self._hidden[2], batch.pictures.shape[-1]
        config = reconstructor.config
        gaussians = reconstructor(network_input(pictures, *self._orbit(batch), config), timestep)
        pixels = batch.cameras.intrinsics.clone()
        pixels[..., :2, :] *= size
        return render(gaussians, batch.cameras.world_from_camera, pixels, size, splatting=config.splatting)

    def _maps(self, batch: RoundBatch, seen: Rendered) -> Maps:
        """What the generator is shown; the second pass's loss reaches the reconstructor through it, as published."""
        orbit = Rendered(*(image[:, : self.frames] for image in seen))
        return maps_seen(orbit, self._orbit(batch), self._hidden[2].config)

    def _orbit(self, batch: RoundBatch) -> Cameras:
        return Cameras(*(matrix[:, : self.frames] for matrix in batch.cameras))


def psnr(pictures: Tensor, truth: Tensor) -> float:
    """In dB, the mean over pictures [..., 3, S, S] in 0..1."""
    error = (pictures - truth).square().mean(dim=(-1, -2, -3))
    return float((-10 * error.clamp(min=1e-10).log10()).mean())


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """Suspends autocast on a tensor's device."""
    return torch.autocast(like.device.type, enabled=False)


def train(
    meshes: Path,
    training: Ouroboros3DTraining,
    start: Start,
    *,
    minutes: float = math.inf,
    device: str = "auto",
    output: Path = Path("out/train"),
    cache: Path = Path(".cache"),
    log: Callable[[str], None] = print,
) -> Path:
    """Trains on a folder of meshes; run again with the same output to go on.

    On several GPUs: `accelerate launch -m backend.cli train ouroboros3d-published ...`; each takes batches of its own.

    Args:
        meshes: folder of meshes, see `find_meshes` for the split.
        training: all settings.
        start: what is begun with.
        minutes: of training in all, if that is less than the steps take.
        device: "auto", "cpu" or "cuda".
        output: folder for checkpoints, log and weights.
        cache: where rendered rounds are kept: at the published size 6 MB each.
        log: receives a line now and then.

    Returns:
        The folder of both networks, which can be imported as `ouroboros3d`.

    Raises:
        TurnaroundError: `train.device`, `meshes.none`, `train.no_split`; of the start, as `load_start`.
    """
    where = own_device(device)
    members = split_meshes(meshes)
    log(f"{len(members['train'])} meshes to train on, {len(members['val'])} to validate")
    torch.manual_seed(training.seed)
    model, reconstructor = load_start(start, training.rounds.size, training.reconstructor, log)
    model.network.enable_gradient_checkpointing()
    reconstructor.enable_gradient_checkpointing()
    distance = _distance(log)
    for frozen in (model, distance):
        if frozen is not None:
            frozen.to(where)
    judged = replace(training.rounds, elsewhere=ELSEWHERE, episodes=1)
    radius = model.config.radius
    precision = training.precision or ("bf16" if where.startswith("cuda") else "no")
    folder = output / NAME / "weights"
    run_loop(
        PublishedObjective(model, reconstructor, distance, training).to(where),
        Rounds(members["train"], training.rounds, radius, cache, where, log),
        Rounds(members["val"], judged, radius, cache, where, log),
        LoopConfig(
            minutes,
            training.batch_size,
            training.learning_rate,
            ema_half_life=training.ema_half_life,
            save_every_minutes=training.save_every_minutes,
            precision=precision,
            seed=training.seed,
            steps=training.steps,
            log_every=training.log_every,
            half=training.half,
            accumulate=training.accumulate,
        ),
        output / NAME,
        folder,
        Ouroboros3DConfig(model.config, training.reconstructor),
        optimizers_for=training.adamw,
        schedule=training.constant,
        write=write_both,
        log=log,
    )
    return folder


def write_both(network: nn.Module, folder: Path, config: Ouroboros3DConfig, half: bool) -> None:
    """A file of each network, with the names of the published state dicts."""
    for name, own in ((GENERATOR, config.generator), (RECONSTRUCTOR, config.reconstructor)):
        state = network.get_submodule(name).state_dict()
        save_weights(folder / f"{name}.safetensors", state, asdict(own), half=half)


def _distance(log: Callable[[str], None]) -> Lpips | None:
    path = installed_lpips()
    if path is None:
        log("no LPIPS: the reconstruction is judged by colours alone, which leaves it blurred; see lpips-alex")
        return None
    distance = Lpips()
    load_into(distance, path)
    return distance.eval().requires_grad_(False)
