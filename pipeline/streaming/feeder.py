"""A decoder thread with a bounded queue: the next frames are ready while the model works.

The source is a file, so a full queue blocks the decoder and nothing is dropped.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from everview.datasets.captures import Capture, Frame


@dataclass(frozen=True, eq=False)
class Fed:
    """A frame, ready for the model, and the capture's cursor just after it."""

    frame: Frame
    cursor: dict[str, Any]


class _End:
    def __init__(self, error: BaseException | None):
        self.error = error


class Feeder:
    """Iterate to get `Fed` frames; leave the context to stop the thread, early or not."""

    def __init__(self, capture: Capture, prepare: Callable[[Frame], Frame], depth: int = 8):
        """prepare: runs in the thread (resizing). depth: frames decoded ahead at most."""
        self._capture = capture
        self._prepare = prepare
        self._queue: queue.Queue[Fed | _End] = queue.Queue(depth)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everview-decoder", daemon=True)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Fed]:
        while True:
            item = self._queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for frame in self._capture:
                if not self._put(Fed(self._prepare(frame), self._capture.state())):
                    return
        except BaseException as caught:  # whatever it is, the consumer's thread must see it
            error = caught
        self._put(_End(error))

    def _put(self, item: Fed | _End) -> bool:
        """Wait for room; False when the consumer has left."""
        while not self._stopping.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
