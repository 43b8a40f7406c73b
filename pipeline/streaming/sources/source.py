"""`Source`: what every origin of frames is to a stream, finished or live."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from everview.datasets.captures import Capture, CaptureInfo, Frame, Skip
from everview.pipeline.streaming.arrivals import Arrival

Put = Callable[[Arrival], bool]


class Source(ABC):
    """Frames on their way to a session. `deliver` runs in the feeder's thread, the rest in the
    session's; the two meet only in the queue behind `put`.

    info: what is known of the frames; of a live source, what is hoped for until `begin` returns.
    can_wait: whether a full queue may make the sender wait. A source that can't (a camera) loses
    the oldest frames in the queue instead, counted.
    """

    info: CaptureInfo
    can_wait: bool = True

    def begin(self, run: Path, say: Callable[[str], None]) -> None:
        """Once, before `deliver`: open what must be open, and wait for what `info` tells.

        run: the run's directory, where a live source may keep what it needs. say: a line for the
        user. Raises DataError when nothing usable is there or comes in time.
        """
        return

    @abstractmethod
    def deliver(self, put: Put) -> None:
        """Put every arrival; return at the end of the stream, or soon after `put` says False.

        Raises DataError when the source can't be read on.
        """

    def stop(self) -> None:
        """Ask `deliver` to return, from another thread: no more frames are wanted."""
        return

    @abstractmethod
    def resume(self, cursor: dict[str, Any]) -> None:
        """Before `deliver`: go on after the arrival with this cursor. DataError if it can't."""

    @abstractmethod
    def identity(self) -> str:
        """A hash or a name that is equal for equal input, for `run.json`."""

    @property
    @abstractmethod
    def skipped(self) -> list[Skip]:
        """What could not become a frame so far, and why."""

    # --- what the session did with it ---

    def took(self, arrival: Arrival, effect: str) -> None:
        """The session has dealt with an arrival. effect: accepted, held out, or why not."""
        return

    def keep(self, frame: Frame) -> None:
        """A frame as the model takes it, that the review may want to see again."""
        return

    def saved(self, cursor: dict[str, Any]) -> None:
        """A snapshot holds everything up to this cursor."""
        return

    @abstractmethod
    def seen_again(self) -> Capture:
        """The frames that were delivered, by index, for the comparison after the stream."""

    def close(self, is_complete: bool) -> None:
        """The run ends; is_complete: nothing of it is left to do."""
        return
