"""What a segment covers: views that were written into it, a bounded number however long it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame

_COLUMNS = 3 + 3 + 1  # centre, direction of sight, time
_MOST = 128
_COPIED = 4  # a picture copies from about as many frames


@dataclass(frozen=True, eq=False)
class Covered:
    """Every `stride`-th view, in the capture's world; the stride doubles when there are too many.

    rows: float64 [N, 7]: camera centre, unit direction of sight, seconds (NaN unknown). seen: views
    that were counted. A value: `joined` gives a new one.
    """

    rows: np.ndarray = field(default_factory=lambda: np.zeros((0, _COLUMNS)))
    stride: int = 1
    seen: int = 0

    def joined(self, frames: Sequence[Frame]) -> Covered:
        """With more frames, which have cameras."""
        rows, stride, seen = list(self.rows), self.stride, self.seen
        for frame in frames:
            assert frame.camera is not None
            if seen % stride == 0:
                time_s = np.nan if frame.time_s is None else frame.time_s
                rows.append(np.array([*frame.camera.centre, *frame.camera.forward, time_s]))
                if len(rows) == _MOST:
                    rows, stride = rows[::2], 2 * stride
            seen += 1
        return Covered(np.stack(rows) if rows else self.rows, stride, seen)

    def view_distance(self, camera: Camera, unit: float) -> float:
        """How far a camera is from the views nearest to it, of which a picture is made: the mean
        over four of distance / unit + angle between the axes in radians. unit: a typical distance,
        world units. Infinite when nothing is covered."""
        if not len(self.rows):
            return float("inf")
        apart = np.linalg.norm(self.rows[:, :3] - camera.centre, axis=1) / unit
        angle = np.arccos(np.clip(self.rows[:, 3:6] @ camera.forward, -1, 1))
        return float(np.sort(apart + angle)[:_COPIED].mean())

    def time_distance(self, time_s: float) -> float:
        """Seconds to the nearest moment that is covered; infinite where none is known."""
        known = self.rows[~np.isnan(self.rows[:, 6]), 6]
        return float(np.abs(known - time_s).min()) if len(known) else float("inf")

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last moment that is known; 0 for fewer than two."""
        known = self.rows[~np.isnan(self.rows[:, 6]), 6]
        return float(known.max() - known.min()) if len(known) else 0.0
