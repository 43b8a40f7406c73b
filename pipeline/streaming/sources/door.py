"""A listening socket in front of which strangers can't wait for long, and that stays open."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

_MOST_WAITING = 16
_LOOK_UP_S = 0.5
_FULL_S = 0.1
_HANDLES = 4
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)


class Door(socket.socket):
    """Holds at most `_MOST_WAITING` connections that were not let in: one more cuts off the oldest,
    so a sender with the token gets in past any number of idle ones. `accept` outlasts a shortage
    of file handles; the only error that it raises is that of a socket that was closed."""

    def __init__(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
        super().__init__(fileno=listening.detach())
        self.settimeout(_LOOK_UP_S)  # closing a socket wakes nobody who waits in its `accept`
        self._waiting: list[socket.socket] = []
        self._lock = threading.Lock()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, a blocking socket."""
        while True:
            try:
                stranger, address = super().accept()
                _check_room(stranger)
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                time.sleep(_FULL_S)
                continue
            self._wait(stranger)
            return stranger, address

    def let_in(self, known: socket.socket) -> None:
        """This connection showed that it may be here."""
        with self._lock:
            self._waiting = [other for other in self._waiting if other is not known]

    def _wait(self, stranger: socket.socket) -> None:
        with self._lock:
            self._waiting = [other for other in self._waiting if other.fileno() != -1]
            if len(self._waiting) >= _MOST_WAITING:
                with suppress(OSError):
                    self._waiting.pop(0).shutdown(socket.SHUT_RDWR)
            self._waiting.append(stranger)


def _check_room(stranger: socket.socket) -> None:
    """Raises OSError, with the connection closed, when the handles that serving it takes are not
    there: its threads would only find out later."""
    spare: list[int] = []
    try:
        for _ in range(_HANDLES):
            spare.append(os.dup(stranger.fileno()))
    except OSError:
        stranger.close()
        raise
    finally:
        for handle in spare:
            os.close(handle)
