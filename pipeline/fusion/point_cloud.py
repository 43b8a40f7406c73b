"""A coloured point cloud of bounded size, in numpy alone.

Each voxel keeps confidence-weighted sums of position and colour. When there are more voxels than
allowed their edge doubles and they merge: memory stays flat however long the stream was.
"""

from __future__ import annotations

import numpy as np

from everview.pipeline.fusion.depth_views import DepthView, trusted_depth
from everview.pipeline.rendering.ply import PointCloud

_LIMIT = 2**20  # voxel coordinates have 21 bits each in one int64 key


class VoxelCloud:
    """Fuses depth views into one point per voxel: the weighted mean of what fell into it."""

    def __init__(self, voxel_size: float, max_points: int = 300_000, least_confidence: float = 0.0):
        """voxel_size: edge in world units. max_points: of the result; at most twice that in use."""
        if not voxel_size > 0:
            raise ValueError(f"voxel size {voxel_size} is not positive")
        self.voxel_size = float(voxel_size)
        self.max_points = max_points
        self.least_confidence = least_confidence
        self._origin: np.ndarray | None = None
        self._keys = np.empty(0, np.int64)
        self._sums = np.empty((0, 8))  # weight, weighted xyz, weighted rgb, number of samples

    def add(self, view: DepthView) -> None:
        """Fuse one view."""
        depth = trusted_depth(view, self.least_confidence)
        seen = depth > 0
        if not seen.any():
            return
        points = view.camera.unproject(view.camera.pixel_centres()[seen], depth[seen])
        if self._origin is None:
            self._origin = np.median(points, axis=0)
        weight = np.clip(view.confidence[seen], 1e-3, 1.0).astype(np.float64)[:, None]
        offsets = points - self._origin
        ones = np.ones_like(weight)
        samples = np.concatenate(
            [weight, weight * offsets, weight * view.image[seen], ones], axis=1
        )
        cells = np.floor(offsets / self.voxel_size).astype(np.int64)
        inside = (np.abs(cells) < _LIMIT).all(axis=1)
        self._merge(_pack(cells[inside]), samples[inside])
        while len(self._keys) > self.max_points:
            self.voxel_size *= 2
            self._keys, self._sums = _summed(_halve(self._keys), self._sums)

    def points(self, least_views: int = 1) -> PointCloud:
        """The cloud so far, by voxel; those of fewer samples than `least_views` left out."""
        sums = self._sums[self._sums[:, 7] >= least_views]
        origin = np.zeros(3) if self._origin is None else self._origin
        weight = np.maximum(sums[:, :1], 1e-12)
        return PointCloud(
            points=(sums[:, 1:4] / weight + origin).astype(np.float32),
            colours=np.clip(np.round(sums[:, 4:7] / weight), 0, 255).astype(np.uint8),
            confidence=(sums[:, 0] / np.maximum(sums[:, 7], 1)).astype(np.float32),
        )

    def _merge(self, keys: np.ndarray, samples: np.ndarray) -> None:
        keys, sums = _summed(keys, samples)
        place = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        inside = place < len(self._keys)
        known[inside] = self._keys[place[inside]] == keys[inside]
        self._sums[place[known]] += sums[known]
        self._keys = np.insert(self._keys, place[~known], keys[~known])
        self._sums = np.insert(self._sums, place[~known], sums[~known], axis=0)


def _summed(keys: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each key once, ascending, with the sum of its samples."""
    found, place = np.unique(keys, return_inverse=True)
    # bincount sums in input order: the same views give the same bytes
    columns = [np.bincount(place, column, len(found)) for column in samples.T]
    return found, np.stack(columns, axis=1)


def _pack(cells: np.ndarray) -> np.ndarray:
    shifted = cells + _LIMIT
    return (shifted[:, 0] << 42) | (shifted[:, 1] << 21) | shifted[:, 2]


def _halve(keys: np.ndarray) -> np.ndarray:
    mask = (1 << 21) - 1
    cells = np.stack([keys >> 42, (keys >> 21) & mask, keys & mask], axis=1) - _LIMIT
    return _pack(cells >> 1)
