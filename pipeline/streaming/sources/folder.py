"""A folder that is still being written: frames in the order in which its index lists them.

A frame is taken when its files are there and decode; a file that doesn't decode may be half
written and is tried again while it changes. The source waits, so nothing is dropped; a frame whose
files don't come although later ones did is given up after `patience_s`, named and counted. The
stream ends by the marker file, or when nothing has come for `idle_s`.

The cursor is the place in the index: killed and resumed, every frame is taken once.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from everview.datasets.captures import Capture, CaptureInfo, Frame, Skip
from everview.datasets.errors import DataError, FileMissing, printable
from everview.datasets.formats.growing_index import (
    END_MARKER,
    LINES_NAME,
    WHOLE_NAME,
    GrowingIndex,
    is_settled,
)
from everview.datasets.listed import FrameRecord, ListedCapture, ReadOptions
from everview.pipeline.streaming.arrivals import Arrival
from everview.pipeline.streaming.config import SourceOptions
from everview.pipeline.streaming.sources.skip_list import SkipList
from everview.pipeline.streaming.sources.source import Put, Source

_LOOK_EVERY_S = 0.1
_LOOK_AHEAD = 32


class FolderSource(Source):
    """`index` is the place of a frame among those that have an image, as in a finished capture."""

    def __init__(self, folder: Path, options: SourceOptions) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; make it first, then watch it")
        self.folder, self._options = folder, options
        self.info = CaptureInfo(str(folder), "folder being written", "up_to_scale", None, True)
        self._index = GrowingIndex(folder, ReadOptions())
        self._entry = self._frame = 0
        self._left_out: tuple[int, ...] = ()  # shared with every cursor
        self._skipped = SkipList()
        self._names = hashlib.blake2b(digest_size=16)
        self._stopping = threading.Event()
        self._news = _News(options)

    def begin(self, run: Path, say: Callable[[str], None]) -> None:
        say(
            f"watching {self.folder} for {WHOLE_NAME} or {LINES_NAME} and its images; the file "
            f"{END_MARKER} or {self._options.idle_s:g} s without news ends the stream"
        )
        while True:
            self._index.look()
            for number in range(min(len(self._index), _LOOK_AHEAD)):
                if self._index.has_image(number):
                    self.info = self._info(number)
                    return
            if self._index.is_ended or self._news.is_idle(len(self._index)):
                raise DataError(
                    f"{self.folder}: no {WHOLE_NAME} or {LINES_NAME} with an image that it lists "
                    f"came within {self._options.idle_s:g} s"
                )
            time.sleep(_LOOK_EVERY_S)

    def _info(self, number: int) -> CaptureInfo:
        try:
            return self._index.info(str(self.folder), number)
        except DataError:  # the entry can't be used; what is said of the others still holds
            return self.info

    def deliver(self, put: Put) -> None:
        while not self._stopping.is_set():
            is_ended = self._index.is_ended  # before the index and the files: none comes after it
            self._index.look()
            is_ended = is_ended or self._news.is_idle(len(self._index))
            while self._entry < len(self._index) and not self._stopping.is_set():
                arrival = self._next(is_ended)
                if arrival is None:
                    break
                if not put(arrival):
                    return
                self._news.came()  # after it: a session that takes long is no silence
            else:
                if is_ended:
                    return
            self._stopping.wait(_LOOK_EVERY_S)

    def _next(self, is_ended: bool) -> Arrival | None:
        """What stands at the cursor, which then moves on; None while it may still come."""
        number = self._entry
        try:
            record = self._index.record(number)
        except FileMissing as error:
            self._note_later(number)
            if not is_ended and not self._news.is_overdue(number):
                return None
            return self._leave_out(str(error))
        except DataError as error:
            return self._leave_out(str(error))
        files = _files(record)
        try:
            if not self._news.is_unchanged(files) and not is_ended:
                return None
            frame = self._decode(record)
        except FileMissing:
            return None
        except DataError as error:
            if not is_ended and not self._news.is_hopeless(files):
                return None
            return self._arrive(None, str(error), self._frame + 1)
        return self._arrive(replace(frame, index=self._frame), None, self._frame + 1)

    def _decode(self, record: FrameRecord) -> Frame:
        return ListedCapture(self.info, [record], (), self._index.options)[0]

    def _leave_out(self, problem: str) -> Arrival:
        self._left_out = (*self._left_out, self._entry)
        return self._arrive(None, problem, self._frame)

    def _arrive(self, frame: Frame | None, problem: str | None, next_frame: int) -> Arrival:
        number = self._entry
        self._entry, self._frame = number + 1, next_frame
        self._names.update(self._index.name(number).encode("utf-8", "surrogateescape") + b"\0")
        if problem is not None:
            name = printable(self._index.name(number))
            self._skipped.add(name, problem)
            problem = f"{name}: {problem}"
        return Arrival(number, frame, time.monotonic(), problem, self._cursor())

    def _note_later(self, number: int) -> None:
        """Look which of the entries after `number` have come before it."""
        for later in range(number + 1, min(number + _LOOK_AHEAD, len(self._index))):
            if not self._news.has_come(later) and self._index.has_image(later):
                self._news.note(later)

    def stop(self) -> None:
        self._stopping.set()

    # --- going on, and looking back ---

    def _cursor(self) -> dict[str, Any]:
        return {
            "folder": self.identity(),
            "entry": self._entry,
            "frame": self._frame,
            "names": self._names.hexdigest(),
            "left_out": self._left_out,
            "skipped": self._skipped.rows,
        }

    def resume(self, cursor: dict[str, Any]) -> None:
        entry = int(cursor.get("entry", -1))
        for number in range(min(entry, len(self._index))):
            self._names.update(self._index.name(number).encode("utf-8", "surrogateescape") + b"\0")
        if cursor.get("folder") != self.identity() or self._names.hexdigest() != cursor["names"]:
            raise DataError(
                f"{self.folder} lists other frames than when the run was stopped; put them back, "
                "or start over with --fresh"
            )
        self._entry, self._frame = entry, int(cursor["frame"])
        self._left_out = tuple(int(number) for number in cursor["left_out"])
        self._skipped = SkipList(cursor["skipped"])

    def identity(self) -> str:
        return f"folder {self.folder.resolve()}"

    @property
    def skipped(self) -> list[Skip]:
        return self._skipped.skips

    def seen_again(self) -> Capture:
        left_out = set(self._left_out)
        taken = [number for number in range(self._entry) if number not in left_out]
        records = [self._index.record(number) for number in taken]
        return ListedCapture(self.info, records, (), self._index.options)


class _News:
    """When something last happened in the folder, and since when one file has been waited for."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._last = time.monotonic()
        self._listed = 0
        self._later: dict[int, float] = {}
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._stamped_at = 0.0

    def came(self) -> None:
        """A frame was taken or given up."""
        self._last, self._stamp = time.monotonic(), ()

    def is_idle(self, listed: int) -> bool:
        """Whether nothing has come for `idle_s`; listed: how many frames the index names."""
        if listed != self._listed:
            self._listed, self._last = listed, time.monotonic()
        return time.monotonic() - self._last > self._options.idle_s

    def has_come(self, later: int) -> bool:
        """Whether this entry's files were seen while an earlier one was waited for."""
        return later in self._later

    def note(self, later: int) -> None:
        """They are there now."""
        self._later[later] = self._last = time.monotonic()

    def is_overdue(self, number: int) -> bool:
        """Whether an entry is still missing `patience_s` after a later one came."""
        self._later = {later: since for later, since in self._later.items() if later > number}
        now = time.monotonic()
        return any(now - since > self._options.patience_s for since in self._later.values())

    def is_unchanged(self, files: list[Path]) -> bool:
        """Whether files are as they were at the last look, or were written some time ago."""
        before, now = self._stamp, _stamp(files)
        if now != before:
            self._stamp, self._stamped_at = now, time.monotonic()
            self._last = time.monotonic()
        return now == before or all(map(is_settled, files))

    def is_hopeless(self, files: list[Path]) -> bool:
        """Whether files that don't decode have not changed for `patience_s`."""
        is_same = _stamp(files) == self._stamp
        return is_same and time.monotonic() - self._stamped_at > self._options.patience_s


def _files(record: FrameRecord) -> list[Path]:
    return [path for path in (record.image, record.depth, record.mask) if path is not None]


def _stamp(files: list[Path]) -> tuple[tuple[int, int], ...]:
    try:
        found = [path.stat() for path in files]
    except OSError as error:
        raise FileMissing(f"{error.filename} was taken away") from None
    return tuple((status.st_size, status.st_mtime_ns) for status in found)
