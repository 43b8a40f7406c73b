"""What a source of frames hands to a session: one value for everything that arrived."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everview.datasets.captures import Frame
    from everview.pipeline.streaming.gate.measures import Look


DROPPED = "dropped: the queue was full"
LATEST_S = 1e12
"""32,000 years: what lies beyond is no time of a frame, and differences of it may not be finite."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """One thing that arrived: a frame, or what stood where a frame should have been.

    sequence: as the sender numbered it, from 0. Files and folders count up by one; a live sender
    may repeat a number, leave some out, or send them out of order.
    frame: None when it could not be had; then `problem` says why in one sentence. A frame that came
    from a live sender has its sequence as its `index`, so that sending it again changes nothing.
    arrived_s: when it arrived, seconds of `time.monotonic()`; latency counts from here.
    cursor: where the source goes on after this arrival, for snapshots (JSON-compatible).
    look: what the write gate measures of the frame's image, where that was done on the way.
    """

    sequence: int
    frame: Frame | None
    arrived_s: float
    problem: str | None = None
    cursor: dict[str, Any] = field(default_factory=dict)
    look: Look | None = None

    def __post_init__(self) -> None:
        if (self.frame is None) == (self.problem is None):
            raise ValueError("an arrival has either a frame or a problem")
        if self.sequence < 0:
            raise ValueError(f"sequence {self.sequence}: at least 0")

    @property
    def loss(self) -> str:
        """Of one without a frame, in a word: dropped or unreadable."""
        return "dropped" if self.problem == DROPPED else "unreadable"


def is_time(time_s: float) -> bool:
    """Whether a frame's time stamp can be one."""
    return math.isfinite(time_s) and abs(time_s) <= LATEST_S
