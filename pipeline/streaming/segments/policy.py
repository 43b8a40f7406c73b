"""When a new segment begins, as a value; recorded in `run.json`."""

from __future__ import annotations

from dataclasses import dataclass

from everview.pipeline.errors import UsageError

_MOST_REPLAYED = 256


@dataclass(frozen=True)
class Segments:
    """How far one state reaches. Raises UsageError."""

    reach: float = 4.0
    """a chunk whose cameras (their median) are farther than this from the gauge's origin begins a
    new segment; in gauge units, of which one is the typical distance that the segment's first chunk
    saw (0: one segment, however far the walk goes)"""
    replayed: int = 8
    """last frames of a segment that the next one sees again before its own, so that nothing is lost
    at the seam"""
    on_device: int = 3
    """segments on the device at most, the one that is written among them; the others lie on disk"""

    def __post_init__(self) -> None:
        if not (self.reach == 0 or 0.5 <= self.reach < float("inf")):
            raise UsageError(
                f"reach {self.reach}: at least half a gauge unit, or 0 for one segment"
            )
        if not 0 <= self.replayed <= _MOST_REPLAYED:
            raise UsageError(f"replayed {self.replayed}: 0 to {_MOST_REPLAYED} frames")
        if self.on_device < 2:
            raise UsageError(
                f"on_device {self.on_device}: at least 2, one written and one looked at"
            )
