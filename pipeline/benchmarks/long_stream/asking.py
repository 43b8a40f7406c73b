"""Somebody who looks while a stream runs: so many views a second, and what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from everview.datasets.cameras import Camera
from everview.pipeline.streaming.sampled import Sampled
from everview.pipeline.streaming.session import Session


@dataclass
class Asking:
    """A thread that asks `session.render` for `rate` views a second, while the context lasts.

    camera: the n-th view's. slowness: each is looked at for so many times as long as it took to
    draw, before the next is asked for.
    A view that comes too late takes the place of those that were due meanwhile: nothing piles up.
    got: views drawn. took_ms: of them, evenly taken.
    """

    session: Session
    camera: Callable[[int], Camera]
    rate: float
    slowness: float = 0.0
    got: int = 0
    took_ms: Sampled = field(default_factory=Sampled)
    _over: threading.Event = field(default_factory=threading.Event)
    _failure: BaseException | None = None

    def to_facts(self, seconds: float) -> dict[str, float]:
        """What was asked for and what came of it, over so many seconds."""
        return {
            "asked_per_s": self.rate,
            "got": self.got,
            "got_per_s": self.got / seconds,
            "ms_p50": self.took_ms.percentile(50),
            "ms_p95": self.took_ms.percentile(95),
        }

    def __enter__(self) -> Asking:
        self._thread = threading.Thread(target=self._run, name="everview-asking", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(60)
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self.session.num_chunks and not self._over.wait(0.01):
                pass
            due = time.monotonic()
            while not self._over.is_set():
                begin = time.monotonic()
                # held until the next is drawn, as a viewer holds what it shows
                view = self.session.render(self.camera(self.got))
                took = time.monotonic() - begin
                self.took_ms.add(1e3 * took)
                self.got += 1
                self._over.wait(self.slowness * took)
                del view
                due = max(due + 1 / self.rate, time.monotonic() - 1 / self.rate)
                self._over.wait(max(0.0, due - time.monotonic()))
        except BaseException as caught:  # shown by the thread that measures
            self._failure = caught
