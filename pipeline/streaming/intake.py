"""Everything that arrives, each once and in order: the reorder window with its counts and events.

Nothing in here depends on when something arrived, so what comes out, the counts and the events are
those of the same arrivals, killed and resumed or not.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from everview.datasets.captures import Frame
from everview.pipeline.posing.posed import PoseFinder
from everview.pipeline.streaming.arrivals import Arrival, is_time
from everview.pipeline.streaming.events import EventLog
from everview.pipeline.streaming.frame_tensors import (
    frames_from_tensors,
    frames_to_tensors,
    under_prefix,
    with_prefix,
)
from everview.pipeline.streaming.gate.verdicts import Verdict
from everview.pipeline.streaming.policies import Order
from everview.pipeline.streaming.window import Gap, Released, ReorderWindow

# Intervals between frames that say what is usual, and how far above it a gap in time is.
_INTERVALS = 16
_UNUSUAL = 4.0


@dataclass(frozen=True, eq=False)
class Turn:
    """An arrival whose turn it is. is_held_out: it is kept for comparison and never written."""

    arrival: Arrival
    is_held_out: bool = False


@dataclass
class FrameClock:
    """The frames' own time stamps, in order: what they jump over, and where they go back."""

    gap_s: float
    last_s: float | None = None
    intervals: list[float] = field(default_factory=list)

    def tick(self, time_s: float | None) -> tuple[str, float] | None:
        """The event that a frame's time stamp is, and the seconds since the one before."""
        if time_s is None or not is_time(time_s):
            return None
        last, self.last_s = self.last_s, float(time_s)
        if last is None:
            return None
        seconds = self.last_s - last
        if seconds < 0:
            return "time backwards", seconds
        is_gap = bool(self.intervals) and seconds > max(
            self.gap_s, _UNUSUAL * statistics.median(self.intervals)
        )
        self.intervals = [*self.intervals, seconds][-_INTERVALS:]
        return ("time gap", seconds) if is_gap else None


class Intake:
    """One stream's. counts: received, duplicate, late, gaps, missing (numbers never seen in time),
    unreadable, dropped, lost (by odometry); and what the session adds."""

    def __init__(self, order: Order, out: Path, odometer: PoseFinder | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.events = EventLog(out)
        self.odometer = odometer
        self._window: ReorderWindow[Turn] = ReorderWindow(order.window)
        self._clock = FrameClock(order.time_gap_s)

    @property
    def next_number(self) -> int:
        """For a frame that comes without one."""
        return self._window.next_number

    @property
    def last_number(self) -> int:
        """The last one whose turn came or that was given up; -1 before the first."""
        return self._window.expected - 1

    def receive(self, arrival: Arrival, is_held_out: bool) -> tuple[Verdict | None, list[Turn]]:
        """A verdict where it has no turn now, and whatever has one now, in order."""
        offered = self._window.offer(arrival.sequence, Turn(arrival, is_held_out))
        if offered.standing in ("duplicate", "late"):
            # a source that resumes names again what it skips: nothing came twice
            if arrival.frame is not None:
                self.counts["received"] += 1
                self.counts[offered.standing] += 1
                self.note(offered.standing, sequence=arrival.sequence)
            return Verdict(offered.standing), []
        self.counts["received"] += 1
        turns = self._turns(offered.released)
        return (Verdict("waiting") if offered.standing == "waiting" else None), turns

    def drain(self) -> list[Turn]:
        """What still waits, at the end of the stream."""
        return self._turns(self._window.drain())

    def count(self, event: str, **values: Any) -> None:
        """Count an event and write it down."""
        self.counts[event] += 1
        self.note(event, **values)

    def note(self, event: str, **values: Any) -> None:
        """Write an event down."""
        self.events.note(event, **values, received=self.counts["received"])

    def _turns(self, released: Iterable[Released[Turn] | Gap]) -> list[Turn]:
        turns = []
        for item in released:
            if isinstance(item, Gap):
                self.counts["gaps"] += 1
                self.counts["missing"] += len(item)
                self.note("gap", first=item.first, last=item.last)
                continue
            turns.append(self._posed(item.item))
            self._look_at(item.item.arrival)
        return turns

    def _posed(self, turn: Turn) -> Turn:
        """With the camera that odometry finds; a frame that it loses has none."""
        arrival = turn.arrival
        if self.odometer is None or arrival.frame is None:
            return turn
        posed = self.odometer.pose(arrival.frame)
        if posed.problem is not None:
            self.counts["lost"] += 1
            self.note("lost", sequence=arrival.sequence, problem=posed.problem)
        return replace(turn, arrival=replace(arrival, frame=posed.frame))

    def _look_at(self, arrival: Arrival) -> None:
        number = arrival.sequence
        if arrival.frame is None:
            self.counts[arrival.loss] += 1
            self.note(arrival.loss, sequence=number, problem=arrival.problem)
        elif (told := self._clock.tick(arrival.frame.time_s)) is not None:
            event, seconds = told
            self.counts[event] += 1
            self.note(event, sequence=number, seconds=seconds)

    # --- snapshots ---

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot, JSON-compatible; `to_tensors` has the frames that wait."""
        held = self._window.held
        waiting = [
            {"is_held_out": held[n].is_held_out, "problem": held[n].arrival.problem}
            for n in sorted(held)
        ]
        return {
            "counts": dict(self.counts),
            "window": self._window.to_facts(),
            "waiting": waiting,
            "clock": {"last_s": self._clock.last_s, "intervals": self._clock.intervals},
            "odometer": None if self.odometer is None else self.odometer.to_facts(),
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """The frames that wait, and odometry's keyframes."""
        tensors: dict[str, Tensor] = {}
        if self.odometer is not None:
            tensors |= with_prefix("odometer", self.odometer.to_tensors())
        for number, turn in self._window.held.items():
            if turn.arrival.frame is not None:
                tensors |= with_prefix(str(number), frames_to_tensors([turn.arrival.frame]))
        return tensors

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from `to_facts` and `to_tensors`; events after them happen again."""
        self.counts = Counter(facts["counts"])
        now = time.monotonic()
        numbers = [int(number) for number in facts["window"]["held"]]
        turns = []
        for number, told in zip(numbers, facts["waiting"], strict=True):
            frames: list[Frame | None] = [None]
            if told["problem"] is None:
                frames = [*frames_from_tensors(under_prefix(str(number), tensors))]
            arrival = Arrival(number, frames[0], now, told["problem"])
            turns.append(Turn(arrival, bool(told["is_held_out"])))
        self._window = ReorderWindow.from_facts(self._window.size, facts["window"], turns)
        if self.odometer is not None and facts.get("odometer") is not None:
            self.odometer.restore(facts["odometer"], under_prefix("odometer", tensors))
        clock = facts["clock"]
        self._clock.last_s, self._clock.intervals = clock["last_s"], list(clock["intervals"])
