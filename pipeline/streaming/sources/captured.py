"""A finished capture as a source: it waits for the model, and its cursor makes resuming exact."""

from __future__ import annotations

import time
from typing import Any

from everview.datasets.captures import Capture, Frame, Skip
from everview.pipeline.streaming.arrivals import Arrival
from everview.pipeline.streaming.sources.source import Put, Source


class CapturedSource(Source):
    """The frames of a capture, and a problem for each frame that it skips on the way."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.info = capture.info
        self._sequence = 0

    def deliver(self, put: Put) -> None:
        capture = self.capture
        before, named = self._cursor(self._sequence), len(capture.skipped)
        for frame in capture:
            if not self._put_skipped(put, named, before):
                return
            before, named = self._cursor(self._sequence + 1), len(capture.skipped)
            if not self._put(put, frame, None, before):
                return
        self._put_skipped(put, named, before)

    def _put_skipped(self, put: Put, named: int, cursor: dict[str, Any]) -> bool:
        """A problem for each skip after the first `named`; they don't move the cursor on: the
        capture's own is already past the frame that comes next."""
        problems = [f"{skip.name}: {skip.reason}" for skip in self.capture.skipped[named:]]
        return all(self._put(put, None, problem, cursor) for problem in problems)

    def _put(
        self, put: Put, frame: Frame | None, problem: str | None, cursor: dict[str, Any]
    ) -> bool:
        arrival = Arrival(self._sequence, frame, time.monotonic(), problem, cursor)
        self._sequence += 1
        return put(arrival)

    def _cursor(self, sequence: int) -> dict[str, Any]:
        return {**self.capture.state(), "sequence": sequence}

    def resume(self, cursor: dict[str, Any]) -> None:
        self.capture.restore(cursor)
        self._sequence = int(cursor.get("sequence", cursor["next"]))

    def identity(self) -> str:
        return self.capture.identity()

    @property
    def skipped(self) -> list[Skip]:
        return self.capture.skipped

    def seen_again(self) -> Capture:
        return self.capture
