"""Where a chunk ends besides after `chunk_frames` frames: a budget of tokens, a target for latency.

All but one of the rules look at the frames alone: their size, their own time stamps. So the same
frames give the same chunks, however they come. The exception, a source that falls silent, is
written down before it has an effect (`flushes.py`), and a run that goes on repeats it.

The first chunk fixes the gauge, and ends by its size alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from everview.pipeline.errors import UsageError
from everview.pipeline.streaming.arrivals import is_time

if TYPE_CHECKING:
    from everview.datasets.captures import Frame

Closed = Literal["full", "budget", "latency", "silence", "size", "end"]
"""Why a chunk ended: `chunk_frames`, `tokens`, `latency_s`, `silence_s`, a frame of another size,
the end of the stream."""


@dataclass(frozen=True)
class Boundaries:
    """A chunk ends at the first limit that it reaches; 0 is no limit. Raises UsageError."""

    tokens: int = 0
    """a chunk ends when it has this many tokens (`ModelConfig.token_grid` of every frame)"""
    latency_s: float = 0.0
    """a chunk ends when its oldest frame is this old, by the frames' own time stamps"""
    silence_s: float = 0.0
    """a chunk ends when nothing has come for so long, by the clock: for live sources that stop and
    go on. Recorded in flushes.jsonl"""

    def __post_init__(self) -> None:
        if self.tokens < 0:
            raise UsageError(f"tokens {self.tokens}: 0 for no budget, or at least 1")
        for name in ("latency_s", "silence_s"):
            if not 0 <= getattr(self, name) <= 86400:
                raise UsageError(f"{name} {getattr(self, name)}: 0 for none, at most a day")

    def reached(
        self,
        pending: Sequence[Frame],
        chunk_frames: int,
        grid: Callable[[int, int], tuple[int, int]],
        now_s: float | None,
        is_first: bool,
    ) -> Closed | None:
        """Which limit the pending frames have reached, if any. grid: rows and columns of tokens of
        a frame's height and width. now_s: the time stamp of the last frame of the stream, pending
        or not. is_first: they would be the first chunk."""
        if not pending:
            return None
        if len(pending) == chunk_frames:
            return "full"
        if self.tokens and _tokens(pending, grid) >= self.tokens:
            return "budget"
        oldest = pending[0].time_s
        if is_first or not self.latency_s or oldest is None or now_s is None or not is_time(now_s):
            return None
        return "latency" if now_s - oldest >= self.latency_s else None


def _tokens(frames: Sequence[Frame], grid: Callable[[int, int], tuple[int, int]]) -> int:
    return sum(math.prod(grid(*frame.image.shape[:2])) for frame in frames)
