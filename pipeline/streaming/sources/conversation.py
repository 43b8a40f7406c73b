"""One connection of an ingest socket, and the numbers that have come over all of them."""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from everview.datasets.errors import DataError
from everview.pipeline.streaming.sources.ingest_protocol import to_text

if TYPE_CHECKING:
    from websockets.sync.server import ServerConnection

_MOST_UNSENT = 4096
_MOST_AHEAD = 1024
_LONGEST_JUMP = 1_000_000


class Conversation:
    """Answers go out in a thread of their own: a sender that doesn't read holds nobody up, and is
    left once too many answers wait for it."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self._unsent: queue.Queue[str | None] = queue.Queue(_MOST_UNSENT)
        self._thread = threading.Thread(target=self._send, name="everview-answers", daemon=True)
        self._thread.start()

    def say(self, kind: str, **values: Any) -> None:
        """Queue an answer; never waits."""
        try:
            self._unsent.put_nowait(to_text(kind, **values))
        except queue.Full:
            self.abandon()

    def leave(self, within_s: float) -> None:
        """Send what is queued, then close; wait for both, but not for ever."""
        with suppress(queue.Full):
            self._unsent.put_nowait(None)
        self._thread.join(within_s)
        self.connection.close()

    def abandon(self) -> None:
        """Cut the connection; whoever reads or writes it finds it closed."""
        with suppress(OSError):
            self.connection.socket.shutdown(2)

    def _send(self) -> None:
        with suppress(Exception):  # the connection is gone; its reader sees that too
            while (text := self._unsent.get()) is not None:
                self.connection.send(text)


class Received:
    """Which of a sender's numbers have come. `next`: the first that has not, or, when one stays
    out for long, the first that is still waited for."""

    def __init__(self, first: int = 0) -> None:
        self.next = first
        self._ahead: set[int] = set()
        self._lock = threading.Lock()

    def check(self, sequence: int) -> None:
        """Raise DataError for a number so far ahead that no sender means it."""
        if sequence - self.next > _LONGEST_JUMP:
            raise DataError(
                f"frame {sequence} is {sequence - self.next} numbers ahead of {self.next}; "
                "frames are numbered from 0 on"
            )

    def add(self, sequence: int) -> int:
        """Note a number; returns `next` after it."""
        with self._lock:
            if sequence >= self.next:
                self._ahead.add(sequence)
            while self._ahead and (self.next in self._ahead or len(self._ahead) > _MOST_AHEAD):
                self.next = min(self._ahead) + 1
                self._ahead.discard(self.next - 1)
            return self.next
