"""Keyframe replay: frames that the bank keeps are written again, so that writes forget less.

A write moves the fast weights towards its chunk and away from all others. Frames of earlier places
that are written with it, as part of the same update, hold it there (experience replay). They come
from the state's frame bank, which keeps frames by coverage: nothing is stored twice, the bank stays
as it was, and a frame's own effect stays once. Replays are counted apart and are events.

When: every n chunks, or as measured forgetting asks. Then drift, the dB that the first chunk has
lost since it was learned (retention.py), is held at `tolerated_db` by a PI controller (after TRC2,
arXiv 2602.22479), whose output is a rate, 0 to 1 replays a chunk:

    error = drift - tolerated;   integral <- clip(integral + ki error, 0, 1)
    rate  = clip(kp error + integral, 0, 1);   a replay is due whenever the rates sum up to 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from everview.pipeline.errors import UsageError

if TYPE_CHECKING:
    from everview.models.frame_bank import FrameBank

_GOLDEN = 0.618033988749895


@dataclass(frozen=True)
class Replay:
    """Frames of earlier places that are written again; off with `frames` 0. Raises UsageError for
    values out of range."""

    frames: int = 0
    """of the frame bank, written again with a chunk when a replay is due (0: never)"""
    every: int = 2
    """chunks from one replay to the next; not used with `tolerated_db`"""
    tolerated_db: float | None = None
    """what the first chunk may lose before replays are asked for (None: by `every`)"""
    kp: float = 0.5
    """replays a chunk, per dB beyond what is tolerated"""
    ki: float = 0.1
    """the same, added up at every chunk"""

    def __post_init__(self) -> None:
        if not 0 <= self.frames <= 64:
            raise UsageError(f"replay of {self.frames} frames: 0 to 64")
        if self.every < 1:
            raise UsageError(f"replay every {self.every} chunks: at least 1")
        if self.tolerated_db is not None and not math.isfinite(self.tolerated_db):
            raise UsageError(f"tolerated_db {self.tolerated_db}: a number, or None")
        for name in ("kp", "ki"):
            if not 0 <= getattr(self, name) <= 100:
                raise UsageError(f"{name} {getattr(self, name)}: 0 to 100")


@dataclass
class Replayed:
    """One stream's. chunks: absorbed since the stream began; times, frames: replays and their
    frames; newest: frames of the chunk before, which are not replayed. integral, credit: the
    controller's; drift_db: as it was measured last."""

    policy: Replay
    chunks: int = 0
    times: int = 0
    frames: int = 0
    newest: int = 0
    integral: float = 0.0
    credit: float = 0.0
    drift_db: float | None = None

    def choose(
        self, bank: FrameBank | None, size: tuple[int, int], drift_db: float | None
    ) -> list[int]:
        """Places in the bank of what is written again with the next chunk; none if none is due.

        size: width and height of the next chunk's frames. drift_db: what the first chunk has lost;
        None if that isn't known.
        """
        if not self.policy.frames:
            return []
        self.chunks += 1
        if not self._is_due(drift_db) or bank is None:
            return []
        older, count = bank.size - self.newest, self.policy.frames
        if older < count or (bank.cameras.width, bank.cameras.height) != size:
            return []
        # evenly over what is kept, shifted every time so that all of it has its turn
        shift = self.times * _GOLDEN % 1.0
        return [int((place + shift) * older / count) for place in range(count)]

    def wrote(self, replayed: int, frames: int) -> None:
        """A chunk of so many frames is in the published state, with what was replayed."""
        self.times += replayed > 0
        self.frames += replayed
        self.newest = frames

    def _is_due(self, drift_db: float | None) -> bool:
        if self.policy.tolerated_db is None:
            return self.chunks % self.policy.every == 0
        if drift_db is None or not math.isfinite(drift_db):
            return False
        self.drift_db = drift_db
        error = drift_db - self.policy.tolerated_db
        self.integral = min(max(self.integral + self.policy.ki * error, 0.0), 1.0)
        self.credit += min(max(self.policy.kp * error + self.integral, 0.0), 1.0)
        if self.credit < 1.0:
            return False
        self.credit -= 1.0
        return True

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot, and for metrics.json."""
        names = ("chunks", "times", "frames", "newest", "integral", "credit", "drift_db")
        return {name: getattr(self, name) for name in names}

    def restore(self, facts: dict[str, Any]) -> None:
        """Inverse of `to_facts`."""
        for name in self.to_facts():
            setattr(self, name, facts[name])
