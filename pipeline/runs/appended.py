"""Files that only grow, with a verified length: what a stream writes for every frame.

A snapshot doesn't hold them, it holds their mark: how many bytes there were, and the hash of those.
So a commit costs the same at frame 200 and at frame 100,000, and what was added after it is cut off
when a run goes on from there: those frames come again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from everview.pipeline.errors import InputRejected
from everview.pipeline.runs.atomic import disk_errors

_PIECE = 2**20


@dataclass(frozen=True)
class Mark:
    """The first `bytes` bytes of a file, which have this blake2b-128."""

    bytes: int
    blake2b: str

    @staticmethod
    def of(facts: Mapping[str, Any]) -> Mark:
        """From a snapshot's facts (`asdict` of a mark)."""
        return Mark(int(facts["bytes"]), str(facts["blake2b"]))


class AppendedFile:
    """One such file. A new one replaces what is there, unless it goes on after a mark."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0
        self._hash = _hasher()
        self._handle: IO[bytes] | None = None

    def append(self, data: bytes) -> None:
        """Add to the end; it survives the end of the process. Raises TryAgain on a full disk."""
        with disk_errors(self.path):
            if self._handle is None:
                self._handle = self.path.open("ab" if self.length else "wb", buffering=0)
            left = memoryview(data)
            while len(left):
                left = left[self._handle.write(left) or 0 :]
        self._hash.update(data)
        self.length += len(data)

    def mark(self) -> Mark:
        """Of everything so far, which then survives the end of the machine, too."""
        self._sync()
        return Mark(self.length, self._hash.hexdigest())

    def go_on_after(self, mark: Mark) -> None:
        """Cut off what was added after the mark. Raises InputRejected when it doesn't verify."""
        self.close()
        self._hash, self.length = check_mark(self.path, mark), mark.bytes
        with disk_errors(self.path):
            if mark.bytes:
                os.truncate(self.path, mark.bytes)
            else:
                self.path.unlink(missing_ok=True)

    def start_over(self) -> None:
        """Remove what an attempt left that nothing goes on from."""
        self.close()
        self._hash, self.length = _hasher(), 0
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, as durable as its mark says; `append` opens it again."""
        if self._handle is not None:
            self._sync()
            self._handle.close()
            self._handle = None

    def _sync(self) -> None:
        if self._handle is not None:
            with disk_errors(self.path):
                os.fsync(self._handle.fileno())


def mark_of(data: bytes) -> Mark:
    """Of a file that begins with this."""
    hasher = _hasher()
    hasher.update(data)
    return Mark(len(data), hasher.hexdigest())


def check_mark(path: Path, mark: Mark) -> Any:
    """Compare the beginning of a file with a mark; returns the hash, ready for more.

    Raises InputRejected that names the file.
    """
    found, left = _hasher(), mark.bytes
    if left:
        try:
            with path.open("rb") as file:
                while left and (piece := file.read(min(left, _PIECE))):
                    found.update(piece)
                    left -= len(piece)
        except OSError as error:
            raise InputRejected(f"{path} can't be read: {error.strerror}") from None
    if left:
        raise InputRejected(f"{path} has {mark.bytes - left} bytes, the snapshot {mark.bytes}")
    if found.hexdigest() != mark.blake2b:
        raise InputRejected(f"{path} differs from the snapshot: its bytes have changed")
    return found


def _hasher() -> Any:
    return hashlib.blake2b(digest_size=16)
