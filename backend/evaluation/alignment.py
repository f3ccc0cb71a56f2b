"""Brings a predicted shape onto its ground truth before measuring, as One-2-3-45 does.

A picture does not fix scale and heading, so the paper (section 4.1, evaluation) searches scale and turn about the
vertical linearly, refines with ICP and keeps the pose with the most inliers. Here: a coarse grid over both, a finer
one around its best, then rigid point-to-point ICP (`trimesh.registration.icp`), each pose scored by its F-score on
point samples. Doing nothing is always one of the candidates, so an aligned score is never below the unaligned one on
the same samples. Nothing is random here: the same samples give the same transform.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from trimesh.registration import icp

Array = NDArray[np.float64]
Mode = Literal["none", "one2345"]

YAW_STEP_DEG = 15.0
"""Coarse step of the search about the vertical; the fine one takes a quarter of it."""

SCALES = np.geomspace(0.6, 1.6, 9)
"""Coarse scales, as multiples of the one that makes the spread of both samples equal."""

REFINED = 4
"""How many of the best poses are refined with ICP."""

COARSE_QUERIES, QUERIES = 250, 1_000
"""Points of each set that are moved; they are compared with all of the other set, whose density bounds the error."""


def transform_points(transform: Array, points: Array) -> Array:
    """Points [N, 3] after an affine transform [4, 4]."""
    return points @ transform[:3, :3].T + transform[:3, 3]


def similarity(scale: float, yaw_deg: float, center: Array, target: Array) -> Array:
    """Transform [4, 4]: scale and turn about the vertical through `center` [3], which then moves to `target` [3].

    A positive turn is counter-clockwise seen from above (+Z).
    """
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    matrix = np.eye(4)
    matrix[:3, :3] = scale * np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    matrix[:3, 3] = target - matrix[:3, :3] @ center
    return matrix


def align(prediction: Array, truth: Array, *, mode: Mode = "one2345", threshold: float = 0.05) -> Array:
    """Similarity transform that takes the predicted points onto the true ones.

    Args:
        prediction: points [N, 3] sampled on the predicted surface, in any order that is not spatial.
        truth: points [M, 3] sampled on the true surface. Both in the object frame, Z up.
        mode: "one2345" searches; "none" gives the identity.
        threshold: distance within which a point counts as an inlier, in the frame's unit.

    Returns:
        float64 [4, 4]: p_truth = transform @ p_prediction; its linear part is a positive scale times a rotation.
    """
    if mode == "none":
        return np.eye(4)
    search = _Search(prediction, truth, threshold)
    fit = float(_spread(truth) / max(_spread(prediction), 1e-9))

    coarse = _grid(fit * SCALES, np.arange(0.0, 360.0, YAW_STEP_DEG))
    best = search.best(coarse, COARSE_QUERIES)
    step = float(SCALES[1] / SCALES[0])
    fine = np.concatenate([_grid(s * step ** np.linspace(-0.5, 0.5, 5), _around(yaw)) for s, yaw in best])
    best = search.best(fine, QUERIES)

    poses = [np.eye(4)] + [search.pose(s, yaw) for s, yaw in best]
    poses += [search.refine(pose) for pose in poses]
    return poses[int(np.argmax([search.score(pose) for pose in poses]))]


class _Search:
    """The two point sets with their trees; scores poses without building a tree for any of them."""

    def __init__(self, prediction: Array, truth: Array, threshold: float) -> None:
        self.prediction, self.truth, self.threshold = prediction[:QUERIES], truth[:QUERIES], threshold
        self.all_truth = truth
        self.prediction_tree, self.truth_tree = cKDTree(prediction), cKDTree(truth)
        self.prediction_center, self.truth_center = prediction.mean(axis=0), truth.mean(axis=0)

    def pose(self, scale: float, yaw_deg: float) -> Array:
        return similarity(scale, yaw_deg, self.prediction_center, self.truth_center)

    def best(self, candidates: Array, queries: int) -> list[tuple[float, float]]:
        """The `REFINED` best of the candidates [K, 2] (scale, yaw), best first."""
        scores = np.array([self.score(self.pose(s, yaw), queries) for s, yaw in candidates])
        order = np.argsort(-scores, kind="stable")[:REFINED]
        return [(float(s), float(yaw)) for s, yaw in candidates[order]]

    def score(self, pose: Array, queries: int = QUERIES) -> float:
        """F-score at the threshold, plus a small share of closeness that orders poses without inliers.

        The true points are taken back into the prediction's frame instead of moving its tree; a similarity scales
        all distances alike.
        """
        scale = float(np.cbrt(np.linalg.det(pose[:3, :3])))
        to_truth = self.truth_tree.query(transform_points(pose, self.prediction[:queries]))[0]
        back = transform_points(np.linalg.inv(pose), self.truth[:queries])
        to_prediction = scale * self.prediction_tree.query(back)[0]
        precision, recall = (to_truth < self.threshold).mean(), (to_prediction < self.threshold).mean()
        f_score = 2 * precision * recall / max(precision + recall, 1e-12)
        return float(f_score + 1e-2 / (1.0 + (to_truth.mean() + to_prediction.mean()) / self.threshold))

    def refine(self, pose: Array) -> Array:
        """The pose after rigid ICP; the scale stays, since one-sided ICP would shrink it."""
        moved = transform_points(pose, self.prediction)
        matrix, _, _ = icp(moved, self.all_truth, max_iterations=20, scale=False, reflection=False)
        return np.asarray(matrix) @ pose


def _grid(scales: Array, yaws_deg: Array) -> Array:
    return np.stack(np.meshgrid(scales, yaws_deg, indexing="ij"), axis=-1).reshape(-1, 2)


def _around(yaw_deg: float) -> Array:
    return yaw_deg + YAW_STEP_DEG * np.linspace(-0.5, 0.5, 5)


def _spread(points: Array) -> float:
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean()))
