"""Sequence numbers in any order in, each once and in order out: the reorder window.

A window of R holds back at most R arrivals while a number before them is missing. A sender whose
order is off by at most R places therefore changes nothing: by the time number n could be given up,
the R + 1 arrivals after it have shown that it is further away than that. Only counts decide, never
the clock, so the same arrivals give the same order, killed and resumed or not.

    duplicate   its number was released, or waits here, already
    late        its number was given up before it came
    gap         numbers given up: they never came, or come late
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from everview.pipeline.errors import UsageError

T = TypeVar("T")
Standing = Literal["taken", "waiting", "duplicate", "late"]

# Gaps remembered to tell "late" from "duplicate"; of one older than these, a frame that comes after
# all counts as a duplicate. Neither has an effect.
_REMEMBERED_GAPS = 256


@dataclass(frozen=True)
class Gap:
    """Numbers first to last, both among them, that were given up."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Released(Generic[T]):
    """An item whose turn it is."""

    sequence: int
    item: T


@dataclass(frozen=True)
class Offered(Generic[T]):
    """What became of an item that was offered, and what is released by it, in order."""

    standing: Standing
    released: tuple[Released[T] | Gap, ...] = ()


@dataclass
class ReorderWindow(Generic[T]):
    """size: items held back at most (0: order is never mended). expected: the number whose turn it
    is. held: items that wait, by number. gaps: those given up, oldest first."""

    size: int
    expected: int = 0
    held: dict[int, T] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise UsageError(f"a reorder window of {self.size} frames: at least 0")

    @property
    def next_number(self) -> int:
        """One more than the largest number seen."""
        return max(self.held, default=self.expected - 1) + 1

    def offer(self, sequence: int, item: T) -> Offered[T]:
        """Take an item in, or say that it has no place any more."""
        if sequence in self.held:
            return Offered("duplicate")
        if sequence < self.expected:
            was_given_up = any(gap.first <= sequence <= gap.last for gap in self.gaps)
            return Offered("late" if was_given_up else "duplicate")
        self.held[sequence] = item
        released = tuple(self._release(self.size))
        return Offered("waiting" if sequence in self.held else "taken", released)

    def drain(self) -> tuple[Released[T] | Gap, ...]:
        """The end of the stream: nothing that is missing will come."""
        return tuple(self._release(0))

    def _release(self, most: int) -> Iterator[Released[T] | Gap]:
        """Everything in turn; then, while more than `most` wait, a gap and what follows it."""
        while self.held:
            if self.expected in self.held:
                yield Released(self.expected, self.held.pop(self.expected))
                self.expected += 1
            elif len(self.held) > most:
                gap = Gap(self.expected, min(self.held) - 1)
                self.gaps = [*self.gaps, gap][-_REMEMBERED_GAPS:]
                self.expected = gap.last + 1
                yield gap
            else:
                return

    def to_facts(self) -> dict[str, Any]:
        """Numbers for a snapshot, JSON-compatible; the items are the caller's to keep."""
        return {
            "expected": self.expected,
            "held": sorted(self.held),
            "gaps": [[gap.first, gap.last] for gap in self.gaps],
        }

    @staticmethod
    def from_facts(size: int, facts: dict[str, Any], items: list[T]) -> ReorderWindow[T]:
        """Inverse of `to_facts`; items: in the order of their numbers."""
        held = dict(zip(map(int, facts["held"]), items, strict=True))
        gaps = [Gap(int(first), int(last)) for first, last in facts["gaps"]]
        return ReorderWindow(size, int(facts["expected"]), held, gaps)
