"""Ctrl-C once: finish and export. Twice: stop now. SIGTERM: keep what there is and leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

TERMINATED = 143


class Interrupts:
    """Within it, the first SIGINT only sets `is_requested`; the second raises KeyboardInterrupt.

    SIGTERM sets `is_terminated`: the caller snapshots at the next frame and exits with 143. From
    `all_is_kept` on there is nothing to wait for, and it raises SystemExit(143) where it comes.
    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self, on_first: Callable[[], None] = lambda: None):
        """on_first: called once from the handler, to say what happens next."""
        self.is_requested = False
        self.is_terminated = False
        self._is_kept = False
        self._on_first = on_first
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number, handler in (
                (signal.SIGINT, self._interrupt),
                (signal.SIGTERM, self._terminate),
            ):
                self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def should_stop(self) -> bool:
        """No more frames are wanted."""
        return self.is_requested or self.is_terminated

    def all_is_kept(self) -> None:
        """A snapshot holds everything: what follows can be made again."""
        self._is_kept = True
        if self.is_terminated:
            raise SystemExit(TERMINATED)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested:
            raise KeyboardInterrupt
        self.is_requested = True
        self._on_first()

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.is_terminated = True
        if self._is_kept:
            raise SystemExit(TERMINATED)
