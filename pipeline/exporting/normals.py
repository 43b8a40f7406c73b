"""Normals of points and meshes, for tools that shade or reconstruct with them."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

_NEIGHBOURS = 12
_AT_A_TIME = 50_000


def mesh_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals of vertices [N, 3], faces weighted by their area; 0 where there is no face."""
    corners = vertices.astype(np.float64)[faces]
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = np.zeros((len(vertices), 3))
    for corner in range(3):
        for axis in range(3):
            sums[:, axis] += np.bincount(faces[:, corner], across[:, axis], len(vertices))
    return _unit(sums)


def point_normals(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Unit normals [N, 3] of the planes through each point's neighbours (Hoppe et al. 1992), on the
    side of the nearest of the camera centres [M, 3]."""
    points = points.astype(np.float64)
    if len(points) < 3:
        return np.zeros((len(points), 3), np.float32)
    tree, nearest = cKDTree(points), cKDTree(centres)
    normals = np.empty((len(points), 3))
    for start in range(0, len(points), _AT_A_TIME):
        some = points[start : start + _AT_A_TIME]
        _, around = tree.query(some, min(_NEIGHBOURS, len(points)))
        offsets = points[around] - points[around].mean(axis=1, keepdims=True)
        _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", offsets, offsets))
        normal = axes[:, :, 0]
        view = centres[nearest.query(some)[1]] - some
        normal[np.einsum("ni,ni->n", normal, view) < 0] *= -1
        normals[start : start + len(some)] = normal
    return _unit(normals)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)
