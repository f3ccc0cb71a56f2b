"""Ouroboros3D on weights in their published layout: through an autoencoder, both networks, and to a mesh."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from video_fixture import SIZE, SMALL_LGM, make_multiview_unet, make_video_model

from backend.generators.multiview_svd import generator
from backend.generators.multiview_svd.loading import load_published
from backend.pipelines.ouroboros3d import networks
from backend.pipelines.ouroboros3d import pipeline as module
from backend.pipelines.registry import Request
from backend.pipelines.stage import Progress, StageCache
from backend.preparation.picture import read_picture
from backend.reconstructors.lgm.network import LGM
from backend.weights.store import save_weights
from protocol.messages import Settings


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both entries, of small sizes."""
    folders = {name: tmp_path / name for name in module.NEEDED}
    video = make_video_model(folders["stable-video-diffusion"])
    folders["ouroboros3d"].mkdir()
    make_multiview_unet(folders["ouroboros3d"] / "mv_model_unet.safetensors", video)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        save_weights(folders["ouroboros3d"] / "recon_model.safetensors", LGM(SMALL_LGM).state_dict(), asdict(SMALL_LGM))
    monkeypatch.setattr(networks, "find_entry", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(networks, "weights_folder", lambda entry: folders[entry.name])
    monkeypatch.setattr(networks, "entry_digest", lambda entry: entry.name)
    monkeypatch.setattr(module.Ouroboros3D, "installed", lambda self: (module.PUBLISHED,))
    monkeypatch.setattr(generator, "load_published", partial(load_published, size=SIZE))


@pytest.mark.usefixtures("installed")
def test_a_picture_becomes_a_mesh_and_feedback_reaches_the_views() -> None:
    pipeline = module.Ouroboros3D()
    assert "ouroboros3d" in pipeline.info().options[0].choices
    picture = read_picture(Path(__file__).parents[2] / "examples" / "house.png")

    def views(**options: object) -> np.ndarray:
        wanted = {"weights": "ouroboros3d", "steps": 3, **options}
        settings = Settings(elevation_deg=10.0, resolution=32, options=wanted)
        run = pipeline.generate(Request(picture, settings), device="cpu", cache=StageCache(), progress=Progress())
        (output,) = run
        assert output.report.weights == "ouroboros3d"
        assert len(output.mesh.faces) > 0
        assert output.splats is not None
        assert output.splats.shape[0] <= SMALL_LGM.count
        return output.views.images

    fed = views()
    assert fed.shape == (8, SIZE, SIZE, 4)
    assert not np.array_equal(fed, views(feedback=False))
    assert not np.array_equal(fed, views(guidance=1.0))
