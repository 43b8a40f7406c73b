"""Frames that a Python program makes: any iterator of them is a source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from everview.datasets.captures import CaptureInfo, Frame, Scale, Skip
from everview.datasets.errors import DataError
from everview.pipeline.streaming.arrivals import Arrival
from everview.pipeline.streaming.sources.kept import PassingSource
from everview.pipeline.streaming.sources.source import Put


class IteratedSource(PassingSource):
    """Frames of an iterator, taken one by one, numbered by their `index` (which must rise; those
    that it leaves out are gaps, waited for and counted as missing).

    A camera's iterator that must not be held up is wrapped with `can_wait=False`: a full queue then
    loses its oldest frame, counted. A run continued from a snapshot passes over the frames that it
    holds, so the iterator has to begin at the same frame again.
    """

    def __init__(
        self,
        frames: Iterable[Frame],
        name: str,
        *,
        scale: Scale = "up_to_scale",
        has_depth: bool = False,
        can_wait: bool = True,
    ) -> None:
        """name: says what the frames are, in `run.json`. scale: unit of the cameras' world."""
        self.info = CaptureInfo(name, "iterator", scale, None, True, has_depth)
        self.can_wait = can_wait
        self._frames = frames
        self._after = -1
        self._is_stopped = False

    def begin(self, run: Path, say: Callable[[str], None]) -> None:
        self.keep_in(run)

    def deliver(self, put: Put) -> None:
        last = self._after
        for frame in self._frames:
            if self._is_stopped:
                return
            if frame.index <= self._after:
                continue
            if frame.index <= last:
                raise DataError(
                    f"{self.info.source}: frame {frame.index} comes after frame {last}; an "
                    "iterator's frames need rising indices"
                )
            last = frame.index
            cursor = {"identity": self.identity(), "after": last}
            if not put(Arrival(last, frame, time.monotonic(), None, cursor)):
                return

    def stop(self) -> None:
        self._is_stopped = True

    def resume(self, cursor: dict[str, Any]) -> None:
        if cursor.get("identity") != self.identity():
            raise DataError(f"the run was streaming another input than {self.info.source}")
        self._after = int(cursor["after"])

    def identity(self) -> str:
        return f"iterator {self.info.source}"

    @property
    def skipped(self) -> list[Skip]:
        return []
