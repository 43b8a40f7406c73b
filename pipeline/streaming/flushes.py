"""`flushes.jsonl`: chunks that ended because nothing came for a while, by the clock.

    {"after": 41}    the pending frames were absorbed after number 41 and before the next

The clock is no property of the frames, so each is written down before it has an effect. A run that
goes on from a snapshot doesn't cut this file off: what it says of frames that come again is done
again at the same places.
"""

from __future__ import annotations

import json
from pathlib import Path

from everview.pipeline.errors import InputRejected
from everview.pipeline.runs.appended import AppendedFile, mark_of

FILE_NAME = "flushes.jsonl"


class Flushes:
    """One stream's. done: flushes so far, those that were repeated among them."""

    def __init__(self, folder: Path) -> None:
        self._file = AppendedFile(folder / FILE_NAME)
        self._left: list[int] = []
        self.done = 0

    def record(self, after: int) -> None:
        """One happens now, after this number."""
        self._file.append((json.dumps({"after": after}) + "\n").encode())
        self.done += 1

    def due_before(self, sequence: int) -> bool:
        """Whether one is to be repeated before this number's turn; asking takes it off."""
        if not self._left or self._left[0] >= sequence:
            return False
        del self._left[0]
        self.done += 1
        return True

    @property
    def is_repeating(self) -> bool:
        """Whether some that happened are still to be repeated."""
        return bool(self._left)

    def go_on(self, done: int = 0) -> None:
        """As after the first `done`; the others will be repeated. Raises InputRejected for a file
        that holds something else."""
        path = self._file.path
        data = path.read_bytes() if path.exists() else b""
        data = data[: data.rfind(b"\n") + 1]
        try:
            places = [int(json.loads(line)["after"]) for line in data.splitlines()]
        except (ValueError, KeyError, TypeError):
            raise InputRejected(f"{path} holds a line that is no flush; is it damaged?") from None
        if len(places) < done:
            raise InputRejected(f"{path} has {len(places)} flushes, the snapshot {done}")
        self._left, self.done = places[done:], done
        self._file.go_on_after(mark_of(data))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
