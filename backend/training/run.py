"""`turnaround train NAME`: data, network and objective of each thing that can be trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from backend.generators.multiview_svd.config import TINY as MULTIVIEW
from backend.training.batches import EpisodeTensors
from backend.training.data.drawn import draw_episodes
from backend.training.data.episodes import EpisodeSpec, OrbitSpec, build
from backend.training.data.feedback import build_feedback
from backend.training.data.meshes import split_meshes
from backend.training.loop import LoopConfig
from backend.training.loop import train as run_loop
from backend.training.orbits import OrbitTensors, mirrorable
from backend.training.ouroboros3d_published import NAME as OUROBOROS3D_PUBLISHED
from backend.training.processes import own_device
from backend.training.published import NAME as PUBLISHED
from backend.training.threedim import NAME as THREEDIM_PUBLISHED
from backend.weights.store import load_into, save_weights, tiny_path
from protocol.errors import TurnaroundError

if TYPE_CHECKING:
    from backend.training.ouroboros3d import Ouroboros3DConfig

ZERO123 = "zero123"
"""Not in `TRAINABLES`: it is several networks, learned one after the other."""
FEEDBACK_EPISODES = 1
"""Of each object; making one takes about a fifth of a CPU second."""
ORBIT_DEG = MULTIVIEW.azimuths_deg
NEAR_SHARE = 0.5
"""See `XUNetObjective`."""
DRAWN_VIEWS, DRAWN_STEPS = 8, 1
"""Of a drawn episode, the input counted in, and denoising steps of each."""


@dataclass(frozen=True)
class Trainable:
    """How to make an objective, and the loop's settings that suit it."""

    make: Callable[[], tuple[Any, Any]]
    """An objective and its network's config."""
    batch_size: int
    learning_rate: float
    looks_at_feedback: bool = False
    """Whether the episodes must carry what the reconstructor makes of their inputs."""
    orbits: bool = False
    """Whether episodes are whole orbits."""


def _sparseneus() -> tuple[nn.Module, Any]:
    from backend.reconstructors.sparseneus.config import TINY
    from backend.reconstructors.sparseneus.network import SparseNeuS
    from backend.training.sparseneus import SparseNeuSObjective

    return SparseNeuSObjective(SparseNeuS(TINY).channels_last()), TINY


def _elevation() -> tuple[nn.Module, Any]:
    from backend.elevation.regressor import ElevationConfig, ElevationNet
    from backend.training.elevation import ElevationObjective

    config = ElevationConfig()
    return ElevationObjective(ElevationNet(config)), config


def _xunet() -> tuple[nn.Module, Any]:
    from backend.generators.xunet.config import TINY
    from backend.generators.xunet.network import XUNet
    from backend.training.xunet import XUNetObjective

    return XUNetObjective(XUNet(TINY).channels_last()), TINY


def _lgm() -> tuple[nn.Module, Any]:
    from backend.reconstructors.lgm.config import TINY
    from backend.reconstructors.lgm.network import LGM
    from backend.training.lgm import LGMObjective

    return LGMObjective(LGM(TINY).channels_last()), TINY


def _multiview() -> tuple[nn.Module, Any]:
    from backend.generators.multiview_svd.config import TINY
    from backend.generators.multiview_svd.model import MultiviewModel
    from backend.training.ouroboros3d import MultiviewObjective

    return MultiviewObjective(MultiviewModel(TINY)), TINY


def _ouroboros3d() -> tuple[nn.Module, Any]:
    from backend.generators.multiview_svd import config as generator
    from backend.generators.multiview_svd.model import MultiviewModel
    from backend.reconstructors.lgm import config as reconstructor
    from backend.reconstructors.lgm.network import LGM
    from backend.training.ouroboros3d import Ouroboros3D, Ouroboros3DConfig, Ouroboros3DObjective

    network = Ouroboros3D(MultiviewModel(generator.TINY), LGM(reconstructor.TINY).channels_last())
    return Ouroboros3DObjective(network), Ouroboros3DConfig(generator.TINY, reconstructor.TINY)


def _threedim() -> tuple[nn.Module, Any]:
    from backend.generators.xunet.config import TINY_3DIM
    from backend.generators.xunet.network import XUNet
    from backend.training.xunet import XUNetObjective

    return XUNetObjective(XUNet(TINY_3DIM).channels_last(), near_share=NEAR_SHARE), TINY_3DIM


TRAINABLES = {
    "sparseneus": Trainable(_sparseneus, batch_size=4, learning_rate=2.5e-3),
    "elevation": Trainable(_elevation, batch_size=64, learning_rate=3e-3),
    "xunet": Trainable(_xunet, batch_size=8, learning_rate=1.5e-3, looks_at_feedback=True),
    "3dim": Trainable(_threedim, batch_size=8, learning_rate=1.5e-3),
    "lgm": Trainable(_lgm, batch_size=4, learning_rate=2e-3, orbits=True),
    "multiview": Trainable(_multiview, batch_size=4, learning_rate=1.5e-3, orbits=True),
    "ouroboros3d": Trainable(_ouroboros3d, batch_size=4, learning_rate=1e-3, orbits=True),
}


def train(
    name: str,
    meshes: Path,
    minutes: float,
    device: str = "auto",
    output: Path = Path("out/train"),
    *,
    start_from: Path | None = None,
    reconstructor: Path | None = None,
    generator: Path | None = None,
    cache: Path = Path(".cache"),
    batch_size: int | None = None,
    learning_rate: float | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Trains a network on a folder of meshes; run again with the same output to go on.

    Args:
        name: one of `TRAINABLES`, or `ZERO123`.
        meshes: folder of meshes, see `find_meshes` for the split.
        minutes: of training in all, earlier runs counted in; preparing the data comes on top.
        device: "auto", "cpu" or "cuda".
        output: folder for checkpoints, log and weights.
        start_from: weights to begin with instead of random ones; of a Zero123 its folder.
        reconstructor: weights whose shapes a view generator looks at; None takes those that ship.
        generator: weights whose drawn views a reconstructor learns from as well; None learns from true ones alone.
        cache: where rendered episodes are kept.
        batch_size: objects a step; None takes what suits the network.
        learning_rate: the highest; None takes what suits the network when it begins with random weights.
        log: receives a line now and then.

    Returns:
        The weights file, or a Zero123's folder.

    Raises:
        TurnaroundError: `train.unknown`, `train.device`, `meshes.none`, `train.no_split`.
    """
    known = [*TRAINABLES, ZERO123, PUBLISHED, THREEDIM_PUBLISHED, OUROBOROS3D_PUBLISHED]
    if name not in TRAINABLES and name != ZERO123:
        raise TurnaroundError(
            "train.unknown",
            f'Nothing called "{name}" can be trained.',
            f"Choose one of: {', '.join(known)}.",
        )
    device = own_device(device)
    groups = split_meshes(meshes)
    log(f"{len(groups['train'])} meshes to train on, {len(groups['val'])} to validate; rendering what is not cached")
    if name == ZERO123:
        from backend.training.zero123 import Zero123Training, train_zero123

        pictures = {split: EpisodeTensors(build(f, EpisodeSpec(), cache), device) for split, f in groups.items()}
        training = Zero123Training(minutes)
        training = replace(
            training,
            batch_size=batch_size or training.batch_size,
            learning_rate=learning_rate or training.learning_rate,
        )
        return train_zero123(pictures, training, output, start_from=start_from, log=log)
    trainable = TRAINABLES[name]
    data: dict[str, Any] = {}
    drawn = {}
    for split, members in groups.items():
        if trainable.orbits:
            spec = OrbitSpec(azimuths_deg=mirrorable(ORBIT_DEG))
            data[split] = OrbitTensors(build(members, spec, cache), spec, ORBIT_DEG, device)
            continue
        dataset, feedback = build(members, EpisodeSpec(), cache), None
        if trainable.looks_at_feedback or generator is not None:
            log(f"shaping the {split} episodes from their inputs alone, as the generator is shown them")
            weights = reconstructor or tiny_path("sparseneus")
            feedback = build_feedback(dataset, weights, cache, episodes=FEEDBACK_EPISODES)
        if generator is not None and feedback is not None:
            log(f"drawing views of the {split} episodes")
            views = draw_episodes(dataset, feedback, generator, cache, views=DRAWN_VIEWS, steps=DRAWN_STEPS)
            drawn[split] = EpisodeTensors(views, device)
        data[split] = EpisodeTensors(dataset, device, feedback if trainable.looks_at_feedback else None)
    torch.manual_seed(0)
    objective, config = trainable.make()
    if drawn:
        objective.drawn, objective.drawn_val = drawn["train"], drawn["val"]
    if start_from is not None:
        load_into(objective.get_submodule("network"), start_from)
    if name == "ouroboros3d":  # joint training begins with both parts as they were trained alone
        for part, path in (("generator", generator), ("reconstructor", reconstructor)):
            if path is not None:
                load_into(objective.get_submodule(f"network.{part}"), path)
    weights = output / f"{name}.safetensors"
    run_loop(
        objective.to(device),
        data["train"],
        data["val"],
        LoopConfig(minutes, batch_size or trainable.batch_size, learning_rate or trainable.learning_rate),
        output / name,
        weights,
        config,
        log=log,
    )
    if name == "ouroboros3d":
        return write_parts(weights, config)
    return weights


def write_parts(weights: Path, config: Ouroboros3DConfig) -> Path:
    """Writes the two networks of Ouroboros3D, which are trained together, to a file each; returns their folder."""
    tensors = load_file(weights)
    for part, file in (("generator", "multiview"), ("reconstructor", "lgm")):
        own = {key.removeprefix(f"{part}."): t for key, t in tensors.items() if key.startswith(f"{part}.")}
        save_weights(weights.with_name(f"{file}.safetensors"), own, asdict(getattr(config, part)))
    return weights.parent
