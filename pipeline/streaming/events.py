"""`events.jsonl`: what happened in a stream besides its frames, one JSON object a line.

    {"event": "gap", "first": 12, "last": 14, "received": 23}    numbers that never came in time
    {"event": "duplicate", "sequence": 7, ...}                   came again: no effect
    {"event": "late", "sequence": 12, ...}                       came after it was given up
    {"event": "corrupt", "sequence": 9, "problem": "...", ...}   arrived and could not be decoded
    {"event": "time gap", "sequence": 40, "seconds": 3.2, ...}   the frames' clock jumped ahead
    {"event": "time backwards", "sequence": 41, "seconds": -0.1, ...}
    {"event": "lost", "sequence": 42, "problem": "...", ...}     odometry found no camera for it
    {"event": "size changed", "sequence": 45, "before": [64, 48], "after": [48, 64], ...}
    {"event": "lens changed", "sequence": 45, "before": [0.8, 1.1, 0.5, 0.5], "after": [...], ...}
    {"event": "segment", "chunk": 12, "because": "reach", ...}   a new one begins with this chunk
    {"event": "gave way", "sequence": 50, "reason": "...", ...}  the write gate did
    {"event": "replayed", "chunk": 9, "frames": 4, "times_s": [...], ...}   again, with this chunk

`received` counts the arrivals up to then. There is no wall clock in it: the same arrivals give the
same bytes, killed and resumed or not. A snapshot holds the file's mark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everview.pipeline.runs.appended import AppendedFile

FILE_NAME = "events.jsonl"


class EventLog(AppendedFile):
    """A run's events; one that doesn't go on after a mark starts the file anew."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FILE_NAME)

    def note(self, event: str, **values: Any) -> None:
        """Write one event; it survives the end of the process."""
        self.append((json.dumps({"event": event, **values}, allow_nan=False) + "\n").encode())


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The events of a run, in order; none where there is no such file."""
    return [json.loads(line) for line in _lines(folder / FILE_NAME)]


def _lines(path: Path) -> Iterator[str]:
    """Complete lines; a last one that a kill cut off is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        yield from (line for line in lines if line.endswith("\n"))
