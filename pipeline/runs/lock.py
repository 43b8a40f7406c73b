"""One owner a directory, by a lock of the operating system that dies with its owner.

`flock` belongs to the open file: the kernel drops it when the process ends, however it ends, so
there is no stale lock to clean up and no heart beat to keep. The text in the file only says who
it is, for the message to the second comer.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import weakref
from pathlib import Path

from everview.pipeline.errors import TryAgain

LOCK_NAME = ".lock"


class DirectoryLock:
    """Exclusive ownership of a directory from `acquire` to `release` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock at once. Raises TryAgain, naming the owner, when somebody has it."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _describe_owner(os.pread(descriptor, 4096, 0))
                os.close(descriptor)
                raise TryAgain(
                    f"{self.path.parent} is in use by {owner}; wait for it to end or choose "
                    "another --out"
                ) from None
            # The previous owner may have removed the file between our open and our lock.
            if _is_same_file(descriptor, self.path):
                break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0
        )
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Give the directory up; a second call does nothing."""
        if self._descriptor is None:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None
        _held.discard(self)

    def _forget_in_child(self) -> None:
        # A forked worker shares the open file; if it kept it, the lock would outlive its owner.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_held: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_held):
        lock._forget_in_child()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _describe_owner(text: bytes) -> str:
    try:
        owner = json.loads(text)
        return f"process {int(owner['pid'])} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
