"""What is said about one arrival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everview.datasets.captures import Frame

# accepted, rectified, rejected: the write gate's. held out: never written, by choice. waiting,
# duplicate, late: the reorder window's, see `window.py`.
Kind = Literal["accepted", "rectified", "rejected", "held out", "waiting", "duplicate", "late"]
WRITTEN = ("accepted", "rectified")


@dataclass(frozen=True)
class Verdict:
    """reason: in words, "" for a plain yes. measured: the number that decided, None if none did."""

    kind: Kind
    reason: str = ""
    measured: float | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind

    @property
    def is_written(self) -> bool:
        """Whether the frame joins a chunk."""
        return self.kind in WRITTEN


@dataclass(frozen=True, eq=False)
class Judged:
    """The frame as it may be written, and the verdict on it.

    gave_way: the gate would have rejected it, and has rejected too many before it.
    """

    frame: Frame
    verdict: Verdict
    gave_way: bool = False


ACCEPTED = Verdict("accepted")
