"""One-2-3-45 against all of the published code's numbers, stage by stage: `make parity GOLDENS=FOLDER`."""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations

import numpy as np
import pytest
import reference_weights
import torch
import torch.nn.functional as F
import trimesh
from goldens import DATA, Golden, folder, full
from test_parity_pieces import FOV, compare_rendering

from backend.elevation.solve import NEAR_MOVES, find_transfers, reprojection_errors, solve_elevation
from backend.generators.zero123.preprocessing import on_white
from backend.geometry.cameras import Camera
from backend.geometry.cameras import project as project_camera
from backend.geometry.export import Y_UP_FROM_Z_UP
from backend.geometry.meshing import extract_surface
from backend.preparation.framing import frame
from backend.preparation.published import frame_as_published, lower_contrast
from backend.reconstructors.sparseneus.blending import ray_difference
from backend.reconstructors.sparseneus.config import PUBLISHED
from backend.reconstructors.sparseneus.features import ActivatedNorm
from backend.reconstructors.sparseneus.frame import Frame
from backend.reconstructors.sparseneus.network import Conditional, SparseNeuS
from backend.reconstructors.sparseneus.rendering import render_rays
from backend.reconstructors.sparseneus.sdf import lookup
from backend.reconstructors.sparseneus.volume import cost_volume, in_view, lattice, project, sample_maps

REDUCED = dataclasses.replace(PUBLISHED, volume_resolution=32, image_size=64)


def test_every_key_of_the_checkpoint_is_there_with_its_shape() -> None:
    manifest = json.loads((folder() / "manifests" / "one2345_recon_checkpoint.json").read_text())
    expected = {
        f"{network}.{key}": shape
        for network, keys in manifest.items()
        if isinstance(keys, dict) and not network.startswith("_")
        for key, shape in keys.items()
    }
    assert {key: list(value.shape) for key, value in SparseNeuS(PUBLISHED).state_dict().items()} == expected


def test_reconstruction() -> None:
    golden = full("one2345_recon")
    network = reference_weights.sparseneus(REDUCED)
    compare_inputs(golden)
    with torch.no_grad():
        conditional = compare_features_and_volume(golden, full("one2345_intermediate_full"), network)
    compare_distances(golden, network, conditional)
    compare_colors(golden, network, conditional)
    compare_mesh(golden, network, conditional)
    near, far = golden["query_near_far"].tolist()
    for anneal in (1, 0):
        with torch.no_grad():
            rays = golden.tensor("rays_o"), golden.tensor("rays_d")
            rendered = render_rays(network, conditional, *rays, (near, far), anneal=float(anneal))
        compare_rendering(golden, rendered, network, f"render_anneal{anneal}_")
    with torch.no_grad():
        compare_variants(golden, network)
    assert not golden.unread


def compare_inputs(golden: Golden) -> None:
    """What the run was given: views of the polar-60 cameras, a quarter of the published size."""
    cameras = Golden(DATA / "one2345_cameras.npz")
    picked = golden["view_sel"]
    for name in ("w2cs", "c2ws"):
        golden.close(name, cameras[f"polar60_{name}"][picked], 1e-6)
    for name in ("scale_mat", "trans_mat", "query_c2w", "query_near_far"):
        golden.close(name, cameras[f"polar60_{name}"], 1e-6)
    golden.close("intrinsics", np.tile(Camera(0, 0, 1.2, FOV).intrinsics(64), (8, 1, 1)), 1e-4)
    size = golden["images"].shape[-1]
    golden.equal("img_wh", np.array([size, size]))
    points = lattice(REDUCED.volume_resolution, torch.device("cpu"))
    golden.equal("vol_dims", np.array(points.shape[:3]))
    golden.equal("partial_vol_origin", points[0, 0, 0])
    golden.close("voxel_size", np.asarray(points[0, 0, 1, 2] - points[0, 0, 0, 2]), 1e-6)
    x, y = golden["rays_pixel_yx"].T[::-1]
    directions = np.stack([x, y, np.ones(len(x))], 1) @ np.linalg.inv(Camera(0, 0, 1.2, FOV).intrinsics(64)).T
    directions = directions @ golden["query_c2w"][:3, :3].T
    golden.close("rays_d", directions / np.linalg.norm(directions, axis=1, keepdims=True), 1e-6)
    golden.close("rays_o", np.tile(golden["query_c2w"][:3, 3], (len(x), 1)), 1e-6)


def views_of(golden: Golden) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images, matrices, poses = (golden.tensor(name)[None] for name in ("images", "affine_mats", "c2ws"))
    return images, matrices[:, :, :3], poses[:, :, :3, 3]


def compare_features_and_volume(golden: Golden, whole: Golden, network: SparseNeuS) -> Conditional:
    images, matrices, centers = views_of(golden)
    maps, _ = network.pyramid_feature_network(images[0])
    golden.close("train_feat_level0_H4", maps[0][[0, 3]], 5e-5)
    golden.close("train_feat_level1_H2_ch::4", maps[1][[0, 3], ::4], 5e-5)
    golden.close("train_feat_level2_H_ch::4", maps[2][[0, 3], ::4], 5e-5)
    sources = network.look(images, matrices, centers)
    fused = sources.fused[0]
    golden.close("train_fused_view2_ch::8_yx::2", fused[2, ::8, ::2, ::2], 5e-5)
    golden.close(
        "train_fused_mean_std_perch", torch.stack([fused.mean((0, 2, 3)), fused.std((0, 2, 3), correction=0)]), 5e-5
    )
    sdf = network.sdf_network_lod0
    compressed = sdf.compress_layer(fused)
    golden.close("train_compress_view0", compressed[0], 5e-5)
    whole.close("train_compress_all_views", compressed, 5e-5)

    # the back-projection alone: what the maps differ by would come squared into the variance
    volume, mask = cost_volume(whole.tensor("train_compress_all_views")[None], matrices, REDUCED)
    i, j, k = golden["cost_coords"].T
    golden.close("cost_var_mean", volume[0, :, i, j, k].T, 2e-5)
    golden.equal("sparse_n_active", mask.sum().to(torch.int64))
    golden.equal("valid_mask_volume", mask[0, 0])
    golden.close("cost_perch_mean", volume.sum((0, 2, 3, 4)) / mask.sum(), 5e-5)
    points = lattice(REDUCED.volume_resolution, mask.device)[None, i, j, k]
    pixels, depth = project(points, matrices)
    golden.equal("view_mask_rows", in_view(pixels, depth, 64)[0].T)
    gathered = sample_maps(compressed[None], pixels[:, :, :64])[0].permute(2, 0, 1)
    golden.close("backproj_feats_rows_first64", gathered, 5e-5)
    i, j, k = whole["train_cost_coords_xyz"].T
    assert mask.sum() == len(i)
    whole.close("train_cost_var_mean", volume[0, :, i, j, k].T, 2e-5)
    assert not whole.unread

    outputs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    net = sdf.sparse_costreg_net
    hooks = [
        block.register_forward_hook(lambda _, given, output, name=name: outputs.update({name: (output, given[1])}))
        for name, block in net.named_children()
    ]
    conditional = network.build(sources)
    for hook in hooks:
        hook.remove()
    strides = {"conv0": 1, "conv1": 2, "conv2": 2, "conv3": 4, "conv4": 4, "conv5": 8, "conv6": 8}
    for name, stride in (strides | {"conv7": 4, "conv9": 2, "conv11": 1}).items():
        output, sites = outputs[name]
        i, j, k = golden[f"reg_{name}_coords"].T // stride
        golden.close(f"reg_{name}_feats", output[0, :, i, j, k].T, 5e-4)
        golden.equal(f"reg_{name}_n", sites.sum().to(torch.int64))
        golden.close(f"reg_{name}_perch_mean", output.sum((0, 2, 3, 4)) / sites.sum(), 5e-4)
    golden.close("train_geometry_volume", conditional.volume[0], 5e-4)
    return conditional


def normals(network: SparseNeuS, points: torch.Tensor, conditional: Conditional) -> torch.Tensor:
    """Gradients [1, P, 3] of the signed distance."""
    x = points.detach().clone().requires_grad_()
    return torch.autograd.grad(network.sdf(x, conditional)[0].sum(), x)[0]


def compare_distances(golden: Golden, network: SparseNeuS, conditional: Conditional) -> None:
    points = golden.tensor("pts")[None]
    golden.close("train_grad", normals(network, points, conditional)[0], 1e-4)
    with torch.no_grad():
        distance, latent = network.sdf(points, conditional)
        golden.close("train_sdf", distance[0, :, None], 1e-5)
        golden.close("train_latent", latent[0], 5e-4)
        layer = network.sdf_network_lod0.sdf_layer
        both = layer(points, lookup(conditional.volume, points))
    golden.close("train_sdf", both[0][0], 1e-5)
    golden.close("train_sdf_feat127", both[1][0], 5e-4)


def compare_colors(golden: Golden, network: SparseNeuS, conditional: Conditional) -> None:
    points, sources = golden.tensor("color_pts")[None], conditional.sources
    towards = F.normalize(golden.tensor("query_c2w")[:3, 3] - points, dim=-1)
    outward = F.normalize(normals(network, points, conditional), dim=-1)
    with torch.no_grad():
        for name, directions in {"query": towards, "normal": outward}.items():
            golden.close(f"train_color_{name}_view", network.colors(points, directions, conditional)[0], 1e-5)
            rays = ray_difference(points[:, :16], directions[:, :16], sources.centers)[0]
            golden.close(f"train_color_{name}_raydiff_first16", rays, 1e-4)
        golden.equal("train_color_mask", network.visible(points, conditional)[0])
        sampled = torch.cat(network.sample(points[:, :8], sources)[:2], dim=-1)[0]
        golden.close("train_color_rgbfeat_first8", sampled, 5e-5)


def compare_mesh(golden: Golden, network: SparseNeuS, conditional: Conditional) -> None:
    axis = torch.linspace(-1, 1, 64)[::4]
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(1, -1, 3)
    with torch.no_grad():
        golden.close("sdf_grid64_neg_stride4", -network.sdf(grid, conditional)[0].view(16, 16, 16), 1e-5)

    asked = []

    def everywhere(points: np.ndarray) -> np.ndarray:
        """The published export also asks where no view looks; `SdfField` does not."""
        asked.append(len(points))
        with torch.no_grad():
            return network.sdf(torch.from_numpy(points)[None], conditional)[0][0].numpy()

    vertices, faces = extract_surface(everywhere, 63, ((-1.0,) * 3, (1.0,) * 3))
    assert sum(asked) < 0.5 * 64**3
    golden.equal("mesh_n_vertices", np.array(len(vertices)))
    golden.equal("mesh_n_faces", np.array(len(faces)))
    golden.equal("mesh_faces_first32", faces[:32])
    surface = trimesh.Trimesh(vertices, faces, process=False)
    golden.close("mesh_area", np.array(surface.area), 1e-3)
    golden.close("mesh_abs_volume", np.array(abs(surface.volume)), 1e-3)
    golden.close("mesh_bbox", np.stack([vertices.min(0), vertices.max(0)]), 1e-4)
    picked = golden["mesh_sample_idx"]
    golden.close("mesh_sample_vertices", vertices[picked], 1e-4)
    world = Frame(golden["trans_mat"] @ golden["scale_mat"]).to_object(vertices)
    golden.close("mesh_sample_vertices_world", world[picked], 1e-4)
    golden.close("mesh_world_bbox", np.stack([world.min(0), world.max(0)]), 1e-4)

    points = torch.from_numpy(vertices)[None]
    outward = F.normalize(normals(network, points, conditional), dim=-1)
    with torch.no_grad():
        colors = torch.cat(
            [
                network.colors(x, n, conditional)[0]
                for x, n in zip(points.split(2048, 1), outward.split(2048, 1), strict=True)
            ]
        )
    golden.close("mesh_sample_colors", colors[picked], 1e-4)
    golden.close("mesh_sample_colors_u8", (colors[picked] * 255).to(torch.uint8), 1)
    golden.close("mesh_mean_color", colors.mean(0), 1e-4)


def compare_variants(golden: Golden, network: SparseNeuS) -> None:
    """Stored statistics instead of the batch's; and scales whose sign the network is blind to."""
    images, matrices, centers = views_of(golden)
    stored = reference_weights.sparseneus(dataclasses.replace(REDUCED, norm="running"))
    sources = stored.look(images, matrices, centers)
    golden.close("eval_feat_level0_H4", stored.pyramid_feature_network(images[0])[0][0][[0, 3]], 5e-5)
    compressed = stored.sdf_network_lod0.compress_layer(sources.fused[0])
    golden.close("eval_compress_view0", compressed[0], 5e-5)
    i, j, k = golden["cost_coords"].T
    volume, _ = cost_volume(compressed[None], matrices, REDUCED)
    golden.close("eval_cost_var_mean", volume[0, :, i, j, k].T, 5e-5)
    conditional = stored.build(sources)
    golden.close("eval_geometry_volume_xyz::2", conditional.volume[0, :, ::2, ::2, ::2], 5e-4)
    golden.close("eval_sdf", stored.sdf(golden.tensor("pts")[None], conditional)[0][0, :, None], 1e-5)

    for module in network.modules():
        if isinstance(module, ActivatedNorm):
            module.weight[::2] *= -1
    fused = network.look(images, matrices, centers).fused[0]
    golden.close("train_negweight_fused_view2_ch::8_yx::2", fused[2, ::8, ::2, ::2], 5e-5)
    compressed = network.sdf_network_lod0.compress_layer(fused)
    golden.close("train_negweight_compress_view0_yx::2", compressed[0, :, ::2, ::2], 5e-5)


def test_elevation() -> None:
    golden = full("elevation")
    golden.close("K", Camera(0.0, 0.0, 1.2, FOV).intrinsics(256), 1e-4)
    polars = golden["coarse_candidates"]
    camera, pairs = Camera(0.0, 0.0, 1.2, FOV), ((0, 1), (1, 2), (2, 3))
    found = []
    for case in dict.fromkeys(name.split("__")[0] for name in golden.arrays if "__" in name):
        matches = {(i, j): golden[f"{case}__match_{i}_{j}"] for i, j in combinations(range(4), 2)}
        transfers = find_transfers(matches, pairs, 4, 256)
        errors = 6 * reprojection_errors(transfers, 90.0 - polars, NEAR_MOVES, camera=camera, size=256)
        # without noise the error at the right angle is rounding alone
        assert errors == pytest.approx(golden[f"{case}__coarse_err"], rel=1e-3, abs=1e-4), case
        estimate = solve_elevation(matches, NEAR_MOVES, camera=camera, size=256, triangulate=pairs, outlier_px=np.inf)
        found.append(90 - estimate.candidates[np.argmin(estimate.errors)])
        assert found[-1] == golden[f"{case}__est_polar"], case
        true = 90 - float(golden[f"{case}__true_polar"])
        if f"{case}__points3d" in golden.arrays:
            views = [Camera(true + e, 30.0 + a, 1.2, FOV) for e, a in NEAR_MOVES]
            golden.close(f"{case}__poses_c2w_opencv", np.stack([v.world_from_camera() for v in views]), 1e-5)
            pixels = np.hstack([project_camera(view, golden[f"{case}__points3d"], 256)[0] for view in views[:2]])
            gap = np.linalg.norm(matches[0, 1][:, None, :4] - pixels[None], axis=-1).min(axis=1)
            assert gap.max() < 1e-3, case
    assert sorted(found) == sorted(golden["summary_elev_noise_truepolar_estpolar_estelev_seconds"][:, 3])
    assert not golden.unread


def test_exported_axes_are_the_published_ones_without_their_mirror_image() -> None:
    """The published map to Y up is (x, y, z) -> (x, z, y) with the faces turned round; its mirror image is ours."""
    golden = full("one2345_postprocess")
    published = golden["out_affine_3x4"][:, :3]
    assert np.linalg.det(published) == pytest.approx(-1)
    assert np.linalg.det(Y_UP_FROM_Z_UP) == pytest.approx(1)
    mirrored = golden["in_vertices"] @ Y_UP_FROM_Z_UP.T * [1, 1, -1]
    golden.close("out_vertices", mirrored, 1e-6)
    golden.equal("out_faces", golden["in_faces"][:, ::-1])
    golden.equal("out_colors", golden["in_colors"])


def test_framing_is_near_the_published_one_and_can_be_it() -> None:
    """Ours is to a fraction of a pixel, the published one to whole ones; that can be had too, at either contrast."""
    golden = full("one2345_postprocess")
    cutout, published = golden["pre_in_rgba"], golden["pre_out_lower0"]
    framed, framing = frame(cutout, 256)
    assert np.abs(on_white(framed).astype(int) - published).mean() < 1
    exact, whole = frame_as_published(cutout)
    lowered, _ = frame_as_published(lower_contrast(cutout))
    golden.close("pre_out_lower0", on_white(exact), 1)
    golden.close("pre_out_lower1", on_white(lowered), 1)
    for name in ("center_x", "center_y", "side"):
        assert getattr(whole, name) == pytest.approx(getattr(framing, name), abs=1), name
