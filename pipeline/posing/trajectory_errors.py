"""ATE and RPE of a trajectory against a known one, added up frame by frame in fixed memory.

Sturm et al., A Benchmark for the Evaluation of RGB-D SLAM Systems, IROS 2012. ATE: RMSE of the
camera centres after the alignment that fits them best (Umeyama, TPAMI 1991); it needs only sums
over the pairs of centres, so a stream of any length keeps 30 numbers. RPE: RMSE of the motion from
each frame to the next posed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from everview.datasets.cameras import invert_rigid

Alignment = Literal["SE3", "Sim3"]

# Sums: count; centres found, known; known x found^T; their squares; and of relative motions:
# count, found^2, found . known, known^2, squared angle; length of the known path.
_SIZES = (1, 3, 3, 9, 1, 1, 1, 1, 1, 1, 1, 1)
_LEAST_FRAMES = 3


@dataclass(frozen=True)
class Errors:
    """alignment: SE3 (metric poses) or Sim3 (a scale is fitted too, `scale`).

    ate_rmse, rpe_translation_rmse and path_length are in the known poses' unit; the path is that
    between the frames that were compared. ate_share_of_path: 0.01 is one per cent.
    """

    alignment: Alignment
    frames: int
    scale: float
    path_length: float
    ate_rmse: float
    ate_share_of_path: float
    rpe_translation_rmse: float
    rpe_rotation_deg_rmse: float


def rotation_angles(rotations: np.ndarray) -> np.ndarray:
    """Angles [...] of rotation matrices [..., 3, 3] in radians."""
    # of a small angle the sine is exact where the cosine has lost it
    off = rotations - np.swapaxes(rotations, -1, -2)
    sines = np.linalg.norm(off, axis=(-2, -1)) / np.sqrt(8.0)
    cosines = (np.trace(rotations, axis1=-2, axis2=-1) - 1.0) / 2.0
    return np.asarray(np.arctan2(sines, cosines))


def rotation_angle(rotation: np.ndarray) -> float:
    """Of one, [3, 3]."""
    return float(rotation_angles(rotation))


class TrajectoryErrors:
    """Add pairs of camera-to-world [4, 4] in order; ask at any time."""

    def __init__(self) -> None:
        self._sums = np.zeros(sum(_SIZES))
        self._origins: tuple[np.ndarray, np.ndarray] | None = None
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, found: np.ndarray, known: np.ndarray) -> None:
        """The next frame's found pose and the known one, whatever their worlds."""
        if self._origins is None:
            # sums about the first centres: far from a world's origin they would lose digits
            self._origins = found[:3, 3].copy(), known[:3, 3].copy()
        a, b = found[:3, 3] - self._origins[0], known[:3, 3] - self._origins[1]
        step = [0.0] * 6
        if self._last is not None:
            moved, truly = (
                invert_rigid(before) @ now
                for before, now in zip(self._last, (found, known), strict=True)
            )
            p, q = moved[:3, 3], truly[:3, 3]
            angle = rotation_angle(truly[:3, :3].T @ moved[:3, :3])
            step = [1.0, p @ p, p @ q, q @ q, angle**2, float(np.linalg.norm(q))]
        parts = [[1.0], a, b, np.outer(b, a).ravel(), [a @ a], [b @ b], step]
        self._sums += np.concatenate([np.asarray(part, np.float64) for part in parts])
        self._last = found.copy(), known.copy()

    def measure(self, alignment: Alignment) -> Errors | None:
        """None with fewer than three frames, or when nothing moved: nothing can be aligned."""
        ends = np.cumsum(_SIZES)[:-1]
        n, a, b, cross, aa, bb, steps, pp, pq, qq, angles, path = np.split(self._sums, ends)
        if n[0] < _LEAST_FRAMES:
            return None
        mean_a, mean_b = a / n, b / n
        spread_a = float(aa[0] / n[0] - mean_a @ mean_a)
        spread_b = float(bb[0] / n[0] - mean_b @ mean_b)
        if spread_a < 1e-18 or spread_b < 1e-18:
            return None
        u, values, vt = np.linalg.svd(cross.reshape(3, 3) / n - np.outer(mean_b, mean_a))
        fitted = float(values @ np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]))
        s = fitted / spread_a if alignment == "Sim3" else 1.0
        ate = float(np.sqrt(max(0.0, spread_b + s * s * spread_a - 2.0 * s * fitted)))
        moves = float((s * s * pp - 2.0 * s * pq + qq)[0] / steps[0])
        return Errors(
            alignment=alignment,
            frames=int(n[0]),
            scale=s,
            path_length=float(path[0]),
            ate_rmse=ate,
            ate_share_of_path=ate / float(path[0]),
            rpe_translation_rmse=float(np.sqrt(max(0.0, moves))),
            rpe_rotation_deg_rmse=float(np.degrees(np.sqrt(angles[0] / steps[0]))),
        )

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot, JSON-compatible and exact."""
        pairs = {"origins": self._origins, "last": self._last}
        told = {k: None if v is None else [x.tolist() for x in v] for k, v in pairs.items()}
        return {"sums": self._sums.tolist(), **told}

    @staticmethod
    def from_facts(facts: dict[str, Any]) -> TrajectoryErrors:
        """Inverse of `to_facts`. Raises ValueError when it holds something else."""
        made = TrajectoryErrors()
        sums = np.array(facts["sums"], np.float64)
        if sums.shape != made._sums.shape:
            raise ValueError(f"{sums.shape} sums of a trajectory's errors, not {made._sums.shape}")
        made._sums = sums
        for name in ("origins", "last"):
            if facts[name] is not None:
                first, second = (np.array(x, np.float64) for x in facts[name])
                setattr(made, f"_{name}", (first, second))
        return made
