"""Seeded random numbers for many scenes at once, each scene a function of its own seed alone.

A scene must not change with the scenes drawn beside it, and drawing 64 scenes must take a few
milliseconds: so every seed fills one row of a table of uniforms, and the layout code takes columns
of that table, vectorised over rows. Everything is float64 on the CPU, so it is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Draws:
    """A table of uniforms [B, columns]; each `uniform` call takes the next free columns."""

    def __init__(self, seeds: Sequence[int], purpose: int, columns: int) -> None:
        """seeds: [B], any non-negative integers. purpose: separates streams of equal seeds."""
        rows = [np.random.default_rng([int(seed), purpose]).random(columns) for seed in seeds]
        self._table = np.stack(rows)
        self._taken = 0

    @property
    def batch(self) -> int:
        """B, the number of seeds."""
        return self._table.shape[0]

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """[B, *shape] uniform in [low, high)."""
        count = int(np.prod(shape)) if shape else 1
        start, self._taken = self._taken, self._taken + count
        if self._taken > self._table.shape[1]:
            raise AssertionError(f"a table of {self._table.shape[1]} draws per scene is too small")
        values = self._table[:, start : self._taken].reshape(self.batch, *shape)
        return low + (high - low) * values

    def log_uniform(self, *shape: int, low: float, high: float) -> np.ndarray:
        """[B, *shape], uniform in the logarithm."""
        return np.exp(self.uniform(*shape, low=np.log(low), high=np.log(high)))

    def integers(self, *shape: int, high: int) -> np.ndarray:
        """[B, *shape] integers in [0, high)."""
        return np.minimum((self.uniform(*shape) * high).astype(np.int64), high - 1)

    def chance(self, probability: float | np.ndarray, *shape: int) -> np.ndarray:
        """[B, *shape] booleans, True with the given probability."""
        return self.uniform(*shape) < probability

    def choice(self, weights: Sequence[float], *shape: int) -> np.ndarray:
        """[B, *shape] indices into `weights`, drawn in proportion to them."""
        edges = np.cumsum(weights) / np.sum(weights)
        return np.searchsorted(edges[:-1], self.uniform(*shape), side="right")

    def normal(self, *shape: int) -> np.ndarray:
        """[B, *shape] standard normal (Box-Muller)."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(*shape)))
        return radius * np.cos(2.0 * np.pi * self.uniform(*shape))

    def directions(self, *shape: int) -> np.ndarray:
        """[B, *shape, 3] unit vectors, uniform on the sphere."""
        z = self.uniform(*shape, low=-1.0, high=1.0)
        angle = self.uniform(*shape, high=2.0 * np.pi)
        r = np.sqrt(1.0 - z * z)
        return np.stack([r * np.cos(angle), r * np.sin(angle), z], -1)

    def rotations(self, *shape: int) -> np.ndarray:
        """[B, *shape, 3, 3], uniform on SO(3) (a random unit quaternion)."""
        return rotation_from_quaternion(self.normal(*shape, 4))


def rotation_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """[..., 4] (w, x, y, z), of any length, to [..., 3, 3]."""
    w, x, y, z = np.moveaxis(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def rotation_about_z(angle: np.ndarray) -> np.ndarray:
    """[...] radians to [..., 3, 3]."""
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    rows = [[c, -s, zero], [s, c, zero], [zero, zero, one]]
    return np.stack([np.stack(row, -1) for row in rows], -2)


# Cyclic axis changes: the local z axis laid along the world's x, y or z.
AXIS_FRAMES = np.array(
    [
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    ]
)
