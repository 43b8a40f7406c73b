"""What a stream writes down as it goes: rows, cameras, events, chunks, flushes; none of it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from everview.pipeline.runs import FrameLog
from everview.pipeline.runs.appended import AppendedFile, Mark
from everview.pipeline.streaming.chunks import ChunkLog
from everview.pipeline.streaming.events import EventLog
from everview.pipeline.streaming.flushes import Flushes
from everview.pipeline.streaming.trajectory import Trajectory

_MOST_WAITING = 256


class StreamFiles:
    """One stream's. waiting: rows of rejected frames, until those before them are written.

    seen_before: cameras that an attempt which was killed had written; so many frames come again.
    """

    def __init__(self, out: Path, events: EventLog) -> None:
        self.rows, self.trajectory, self.chunks = FrameLog(out), Trajectory(out), ChunkLog(out)
        self.events, self.flushes = events, Flushes(out)
        self.waiting: list[dict[str, Any]] = []
        self.seen_before = 0

    def add_rejected(self, row: dict[str, Any], is_alone: bool) -> None:
        """A row of a frame that joins no chunk. is_alone: no frame before it waits for a chunk."""
        self.waiting.append(row)
        if is_alone or len(self.waiting) == _MOST_WAITING:
            self.write([])

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows in the sender's order, those of rejected frames among them (unless there are
        hundreds: those don't wait)."""
        for row in sorted([*self.waiting, *rows], key=lambda row: row["sequence"]):
            self.rows.add(row)
        self.waiting = []

    def marks(self) -> dict[str, Any]:
        """How much of each file belongs to a snapshot made now, by name."""
        marks = {file.path.name: asdict(file.mark()) for file in self._logs()}
        return marks | self.trajectory.marks()

    def go_on_after(self, marks: Mapping[str, Any], flushes: int) -> None:
        """Inverse of `marks`; flushes: that were done by then. Raises InputRejected."""
        self.flushes.go_on(flushes)
        self.seen_before = self.trajectory.length_on_disk()
        self.trajectory.go_on_after(marks)
        for file in self._logs():
            file.go_on_after(Mark.of(marks[file.path.name]))

    def start_over(self) -> None:
        """Remove what an attempt without a snapshot left: its frames come again."""
        self.flushes.go_on()
        self.seen_before = self.trajectory.length_on_disk()
        self.trajectory.start_over()
        for file in self._logs():
            file.start_over()

    def close(self) -> None:
        """Close all of them; what is written later opens them again."""
        self.trajectory.close()
        self.flushes.close()
        for file in self._logs():
            file.close()

    def _logs(self) -> tuple[AppendedFile, ...]:
        return self.rows, self.events, self.chunks
