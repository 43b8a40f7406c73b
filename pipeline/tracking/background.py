"""A tracker behind a queue: whatever it does, the run that it watches goes on at its own speed."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from everview.pipeline.tracking.tracker import Tracker

log = logging.getLogger(__name__)

_Order = Callable[[Tracker], None]


class BackgroundTracker:
    """Hands everything to a tracker that its own thread opens, writes to and closes.

    No call waits, but for `close`, which gives the thread `patience_s`. The first time that the
    tracker raises, or that `capacity` orders wait for it, is one warning; from then on it is told
    nothing more. The thread is a daemon: one that never comes back doesn't keep the process.
    """

    def __init__(
        self,
        open_tracker: Callable[[], Tracker],
        label: str,
        capacity: int = 1024,
        patience_s: float = 10.0,
    ) -> None:
        self._open, self._label, self._patience_s = open_tracker, label, patience_s
        self._orders: queue.Queue[_Order | None] = queue.Queue(capacity)
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name=f"tracker-{label}", daemon=True)
        self._thread.start()

    @property
    def is_down(self) -> bool:
        """Whether the tracker has been given up."""
        return self._given_up.is_set()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        kept = dict(values)
        self._order(lambda tracker: tracker.scalars(step, kept))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        kept = image.copy()  # the run may draw its next picture in the same place
        self._order(lambda tracker: tracker.image(step, name, kept))

    def close(self) -> None:
        """Wait for what is left, but no longer than `patience_s`."""
        deadline = time.monotonic() + self._patience_s
        if not self.is_down:
            try:
                self._orders.put(None, timeout=self._patience_s)
            except queue.Full:
                self._give_up(f"took nothing for {self._patience_s:.0f} s")
        if not self.is_down:
            self._thread.join(max(0.0, deadline - time.monotonic()))
            if self._thread.is_alive():
                self._give_up(f"didn't finish within {self._patience_s:.0f} s")

    def _order(self, order: _Order) -> None:
        if self.is_down:
            return
        try:
            self._orders.put_nowait(order)
        except queue.Full:
            self._give_up(f"is behind by {self._orders.maxsize} lines")

    def _serve(self) -> None:
        try:
            tracker = self._open()
            while (order := self._orders.get()) is not None and not self.is_down:
                order(tracker)
            if not self.is_down:
                tracker.close()
        except BaseException as error:  # SystemExit too: nothing of a tracker's may get further
            reason = " ".join(str(error).split())[:300]
            self._give_up(f"failed: {type(error).__name__}: {reason}")

    def _give_up(self, why: str) -> None:
        with self._lock:
            if self._given_up.is_set():
                return
            log.warning(
                "tracking: %s %s; the run goes on without it, its curve is in the run directory",
                self._label, why,
            )  # fmt: skip
            self._given_up.set()  # last: who sees it down, `close` too, finds the warning said
