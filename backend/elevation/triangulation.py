"""Linear triangulation of many points for many hypotheses about the cameras at once, and how far off it lands.

Everything is in normalised image coordinates: x = (u - size / 2) / focal, and y alike. For square pixels that leaves
linear triangulation's answer as it is, for it scales all of its equations by the same number.

The loops are compiled: tens of thousands of 4 x 4 problems are solved in a few milliseconds, with next to no memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

NEWTON, INVERSE = 5, 8
"""Steps towards the least eigenvalue, then towards its vector: one and two where rays meet, all of them for those that
miss each other by as much as the views are apart. They are fixed, so that the compiler unrolls them."""


def orbit_projections(elevations: Array, moves: Sequence[tuple[float, float]], distance: float) -> Array:
    """Projections [C, V, 3, 4] to normalised image coordinates, `Camera.camera_from_world` for many cameras.

    Args:
        elevations: degrees [C].
        moves: the views' (elevation, azimuth) moves in degrees from each of these, at azimuth 0.
        distance: of all cameras from the origin.
    """
    e = np.radians(elevations[:, None] + [move[0] for move in moves])
    a = np.broadcast_to(np.radians([move[1] for move in moves]), e.shape)
    matrices = np.zeros((*e.shape, 3, 4))
    matrices[..., 0, 0], matrices[..., 0, 1] = np.cos(a), np.sin(a)
    matrices[..., 2, 0], matrices[..., 2, 1] = -np.sin(a) * np.cos(e), np.cos(a) * np.cos(e)
    matrices[..., 2, 2], matrices[..., 2, 3] = -np.sin(e), distance
    matrices[..., 1, :3] = np.cross(matrices[..., 2, :3], matrices[..., 0, :3])
    return matrices


@njit(cache=True, nogil=True, error_model="numpy")
def transfer_errors(
    projections: Array,
    pairs: Indices,
    pixels: Array,
    point: Indices,
    view: Indices,
    seen: Array,
    weight: Array,
    limit: float,
) -> Array:
    """Weighted sums [C] of how far triangulated points land from where they were seen in another view.

    Args:
        projections: [C, V, 3, 4].
        pairs: [P, 4]: first and second view, first point and the one after the last, of all the points of a pair.
        pixels: [4, N], x and y of each point in its pair's first view, then in the second.
        point: [T], the point of each sighting.
        view: [T], the view that it was sighted in.
        seen: [2, T], x and y there.
        weight: [T].
        limit: no sighting's distance counts more.
    """
    errors = np.zeros(len(projections))
    equations, points = np.empty((10, pixels.shape[1])), np.empty((4, pixels.shape[1]))
    for c in range(len(projections)):
        _normal_equations(projections[c], pairs, pixels, equations)
        least_vectors(equations, points)
        for t in range(len(point)):
            p, n = projections[c, view[t]], point[t]
            x, y, z, w = points[0, n], points[1, n], points[2, n], points[3, n]
            depth = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3] * w
            dx = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3] * w) / depth - seen[0, t]
            dy = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3] * w) / depth - seen[1, t]
            errors[c] += weight[t] * min(np.sqrt(dx * dx + dy * dy), limit)
    return errors


@njit(cache=True, nogil=True, error_model="numpy")
def _normal_equations(projections: Array, pairs: Indices, pixels: Array, out: Array) -> None:
    """A^T A of each point's linear triangulation (Hartley and Zisserman, Section 12.2), its upper triangle [10, N].

    A has the rows x P_3 - P_1 and y P_3 - P_2 of both views; its products are linear in x^2 + y^2, x, y and 1.
    """
    for i, j, start, stop in pairs:
        p, q = projections[i], projections[j]
        k = 0
        for a in range(4):
            for b in range(a, 4):
                px, qx = p[0, a] * p[2, b] + p[2, a] * p[0, b], q[0, a] * q[2, b] + q[2, a] * q[0, b]
                py, qy = p[1, a] * p[2, b] + p[2, a] * p[1, b], q[1, a] * q[2, b] + q[2, a] * q[1, b]
                pp, qq = p[2, a] * p[2, b], q[2, a] * q[2, b]
                fixed = p[0, a] * p[0, b] + p[1, a] * p[1, b] + q[0, a] * q[0, b] + q[1, a] * q[1, b]
                for n in range(start, stop):
                    x, y, u, v = pixels[0, n], pixels[1, n], pixels[2, n], pixels[3, n]
                    first = (x * x + y * y) * pp - x * px - y * py
                    out[k, n] = fixed + first + (u * u + v * v) * qq - u * qx - v * qy
                k += 1


@njit(cache=True, nogil=True, error_model="numpy")
def least_vectors(upper: Array, out: Array) -> None:
    """The eigenvectors [4, N] of least eigenvalue, of symmetric matrices that are not negative, up to scale.

    Where M - s I = L D L^T, the vector that L^T takes to (0, 0, 0, 1) solves all equations but the last, which it
    misses by the last entry of D. The least eigenvalue is found from below by Newton's method on the characteristic
    polynomial, whose step is one over the trace of (M - s I)^-1: it cannot pass the root. Inverse iteration does the
    rest. There is no branch in the loop, so that it is done for several matrices at a time.

    Args:
        upper: the upper triangles [10, N]. No vector may end in 0: no point at infinity.
        out: [4, N], where the vectors go.
    """
    for n in range(upper.shape[1]):
        m01, m02, m03 = upper[1, n], upper[2, n], upper[3, n]
        shift, x, y, z, w = 0.0, 0.0, 0.0, 0.0, 1.0
        for _ in range(NEWTON):
            r0 = 1 / (upper[0, n] - shift)  # of D, the reciprocals
            l1, l2, l3 = m01 * r0, m02 * r0, m03 * r0
            r1 = 1 / (upper[4, n] - shift - l1 * m01)
            c2, c3 = upper[5, n] - l1 * m02, upper[6, n] - l1 * m03
            k2, k3 = c2 * r1, c3 * r1
            r2 = 1 / (upper[7, n] - shift - l2 * m02 - k2 * c2)
            c = upper[8, n] - l2 * m03 - k2 * c3
            j3 = c * r2
            z = -j3
            y = -k2 * z - k3
            x = -l1 * y - l2 * z - l3
            d3 = max(upper[9, n] - shift - l3 * m03 - k3 * c3 - j3 * c, 0.0)  # no step where the rays meet
            others = r0 + (1 + l1 * l1) * r1 + (1 + k2 * k2 + (l1 * k2 - l2) * (l1 * k2 - l2)) * r2
            step = d3 / (1 + x * x + y * y + z * z + d3 * others)
            shift += step
        for _ in range(INVERSE):
            y -= l1 * x
            z -= l2 * x + k2 * y
            w -= l3 * x + k3 * y + j3 * z
            x, y, z = x * (d3 * r0), y * (d3 * r1), z * (d3 * r2)
            z -= j3 * w
            y -= k2 * z + k3 * w
            x -= l1 * y + l2 * z + l3 * w
        out[0, n], out[1, n], out[2, n], out[3, n] = x, y, z, w
