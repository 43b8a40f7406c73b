"""How well two frames with depth agree on where they were: one warped into the other.

Judged by counting, not by what an optimiser reports of itself: fitness and error of a registration
are high on a wall that slides along itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from everview.datasets.captures import Frame
from everview.datasets.images import LUMA

# Points along the longer side; depths this far apart, as a share, are of the same surface.
_SAMPLES = 96
_TOLERANCE = 0.05
_LEAST_POINTS = 32


@dataclass(frozen=True)
class Agreement:
    """overlap: share of the frame's known depth that falls on known depth of the other frame.

    depth: share of those points that lie where the other frame says. picture: correlation of grey
    values at those that do, -1 to 1 (0 where there is nothing to correlate).
    """

    overlap: float
    depth: float
    picture: float

    @property
    def score(self) -> float:
        """One number to choose by, 0 to 1."""
        return self.depth * max(self.picture, 0.0)


NONE = Agreement(0.0, 0.0, 0.0)


def grey(image: np.ndarray) -> np.ndarray:
    """Luminance float32 [H, W], 0 to 1, of uint8 [H, W, 3]."""
    return np.ascontiguousarray(image.astype(np.float32) @ (LUMA / 255.0))


def known_depth(frame: Frame) -> np.ndarray:
    """Depth float32 [H, W], 0 where it is unknown, not finite or masked."""
    if frame.depth is None:
        return np.zeros(frame.image.shape[:2], np.float32)
    depth = np.nan_to_num(frame.depth.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    depth = np.maximum(depth, 0.0)
    return depth if frame.mask is None else np.where(frame.mask, depth, 0.0).astype(np.float32)


def agreement(frame: Frame, other: Frame, other_from_frame: np.ndarray) -> Agreement:
    """How well `frame`, moved by the rigid [4, 4], agrees with `other`.

    Both with depth and with a camera, of which only the intrinsics are used.
    """
    assert frame.camera is not None
    assert other.camera is not None
    depth, theirs = known_depth(frame), known_depth(other)
    step = max(1, round(max(depth.shape) / _SAMPLES))
    rows, columns = np.nonzero(depth[step // 2 :: step, step // 2 :: step])
    rows, columns = rows * step + step // 2, columns * step + step // 2
    z = depth[rows, columns].astype(np.float64)
    if len(z) < _LEAST_POINTS:
        return NONE
    pixels = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    points = frame.camera.moved(np.eye(4)).unproject(pixels, z)
    points = points @ other_from_frame[:3, :3].T + other_from_frame[:3, 3]
    camera, ahead = other.camera, np.maximum(points[:, 2], 1e-9)
    u = np.floor(camera.fx * points[:, 0] / ahead + camera.cx)
    v = np.floor(camera.fy * points[:, 1] / ahead + camera.cy)
    inside = (points[:, 2] > 1e-6) & (u >= 0) & (v >= 0)
    inside &= (u < camera.width) & (v < camera.height)
    u, v = u[inside].astype(int), v[inside].astype(int)
    measured, expected = theirs[v, u], points[inside, 2]
    seen = measured > 0
    if seen.sum() < _LEAST_POINTS:
        return Agreement(float(seen.sum()) / len(z), 0.0, 0.0)
    same = seen & (np.abs(measured - expected) <= _TOLERANCE * expected)
    mine = grey(frame.image)[rows[inside], columns[inside]][same]
    correlation = _correlation(mine, grey(other.image)[v, u][same])
    return Agreement(float(seen.sum()) / len(z), float(same.sum() / seen.sum()), correlation)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < _LEAST_POINTS:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / spread if spread > 1e-9 else 0.0
