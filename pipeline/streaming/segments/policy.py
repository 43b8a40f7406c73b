"""When a new segment begins, as a value; recorded in `run.json`."""

from __future__ import annotations

from dataclasses import dataclass

from everview.pipeline.errors import UsageError

_MOST_REPLAYED = 256


@dataclass(frozen=True)
class Segments:
    """How far one state reaches, in space and, where things move, in time. Raises UsageError."""

    reach: float = 4.0
    """a chunk whose cameras (their median) are farther than this from the gauge's origin begins a
    new segment; in gauge units, of which one is the typical distance that the segment's first chunk
    saw (0: one segment, however far the walk goes)"""
    span: int = 0
    """where things move: views of a segment, those replayed among them, after which the next begins
    (0: however long it lasts). 64, as many as a bank keeps, leaves every time a bank of its own,
    whatever the stream's length. In still scenes it costs up to half a dB, so it is asked for;
    frames without a time end no segment by it"""
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
        if not (self.span == 0 or self.replayed < self.span):
            raise UsageError(
                f"span {self.span} with {self.replayed} frames replayed: more than those, or 0"
            )
        if self.on_device < 2:
            raise UsageError(
                f"on_device {self.on_device}: at least 2, one written and one looked at"
            )

    @property
    def is_on(self) -> bool:
        """Whether a stream may have more than one."""
        return self.reach > 0 or self.span > 0
