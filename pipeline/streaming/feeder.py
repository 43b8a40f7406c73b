"""One thread that takes frames from a source and one bounded queue between it and the session.

What is done to a frame alone is done there, beside the session: resizing, and the write gate's
measures.

A full queue makes a source that can wait do so, and nothing is lost. A camera can't wait: then the
oldest frame in the queue goes, and a problem of the same number takes its place, so that the
session counts it and names it among the events.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType

from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.pipeline.streaming.arrivals import DROPPED, Arrival
from everview.pipeline.streaming.gate.measures import Look
from everview.pipeline.streaming.sources.source import Source

_MOST_PROBLEMS = 4096
_LOOK_UP_S = 0.2
_STOPPING_S = 60.0


@dataclass(frozen=True)
class QueueCounts:
    """What went through: frames taken in, frames dropped, and the most that waited at once."""

    frames: int
    dropped: int
    longest: int


class EndOfStream(Exception):
    """Nothing more comes."""


class ArrivalQueue:
    """Holds at most `depth` frames, and what stands for frames that were dropped or unreadable.

    Those others hold no picture, and there are at most `_MOST_PROBLEMS`. What can wait, waits then
    too; where a camera can't, a session that stands still for hours finds the oldest drops in the
    count alone, and a gap in the numbers.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[Arrival] = deque()
        self._changed = threading.Condition()
        self._waiting = self._frames = self._dropped = self._longest = 0
        self._is_closed = self._is_ended = False
        self._error: BaseException | None = None

    def put(self, arrival: Arrival, can_wait: bool) -> bool:
        """Add an arrival, waiting for room or dropping the oldest frame; False when closed."""
        has_frame = arrival.frame is not None
        with self._changed:
            while can_wait and self._is_full(has_frame) and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return False
            if has_frame:
                if self._waiting >= self._depth:
                    self._drop_oldest()
                self._waiting += 1
                self._frames += 1
                self._longest = max(self._longest, self._waiting)
            self._items.append(arrival)
            if len(self._items) > self._depth + _MOST_PROBLEMS:
                self._items.remove(next(item for item in self._items if item.frame is None))
            self._changed.notify_all()
            return True

    def _is_full(self, has_frame: bool) -> bool:
        if has_frame and self._waiting >= self._depth:
            return True
        return len(self._items) >= self._depth + _MOST_PROBLEMS

    def get(self) -> Arrival | None:
        """The next arrival, waiting for it for a fifth of a second; None when nothing came. Raises
        the source's error at the end, and EndOfStream where there is none."""
        with self._changed:
            if not self._items and not self._is_ended:
                self._changed.wait(_LOOK_UP_S)
            if not self._items:
                if self._is_ended:
                    raise self._error or EndOfStream
                return None
            arrival = self._items.popleft()
            self._waiting -= arrival.frame is not None
            self._changed.notify_all()
            return arrival

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes; error: why, if it was not the end of the stream."""
        with self._changed:
            self._error, self._is_ended = error, True
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is wanted: whoever waits for room goes on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def counts(self) -> QueueCounts:
        """So far."""
        with self._changed:
            return QueueCounts(self._frames, self._dropped, self._longest)

    def _drop_oldest(self) -> None:
        for place, item in enumerate(self._items):
            if item.frame is not None:
                self._items[place] = replace(item, frame=None, problem=DROPPED, look=None)
                self._waiting -= 1
                self._dropped += 1
                return


class Feeder:
    """Takes arrivals from a source; leave the context to stop it, early or not."""

    def __init__(self, source: Source, prepare: Callable[[Frame], Frame], depth: int = 8):
        """prepare: runs in the source's thread (resizing). depth: frames waiting at most."""
        self._source, self._prepare = source, prepare
        self._queue = ArrivalQueue(depth)
        self._thread = threading.Thread(target=self._run, name="everview-source", daemon=True)

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue.close()
        self._source.stop()
        # a stranger's iterator may never come back; its thread ends with the process
        self._thread.join(_STOPPING_S)

    def arrivals(
        self,
        is_over: Callable[[], bool] = lambda: False,
        idle: Callable[[], object] = lambda: None,
    ) -> Iterator[Arrival]:
        """Everything that arrives until the stream ends, or until `is_over` says so (asked while
        nothing comes, too, so that a silent camera doesn't hold up Ctrl-C). idle: called five times
        a second while nothing comes."""
        while not is_over():
            try:
                arrival = self._queue.get()
            except EndOfStream:
                return
            if arrival is None:
                idle()
            else:
                yield arrival

    def counts(self) -> QueueCounts:
        """What went through the queue so far."""
        return self._queue.counts()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._source.deliver(self._put)
        except BaseException as caught:  # whatever it is, the session's thread must see it
            error = caught
        self._queue.end(error)

    def _put(self, arrival: Arrival) -> bool:
        if arrival.frame is not None:
            try:
                frame = self._prepare(arrival.frame)
                arrival = replace(arrival, frame=frame, look=Look.whole(frame.image))
            except (DataError, ValueError) as error:
                arrival = replace(arrival, frame=None, problem=f"can't be resized: {error}")
        return self._queue.put(arrival, self._source.can_wait)
