"""The index of a folder that is still being written: cameras that come in while one looks.

Two forms are read, whichever is there:

    transforms.json   as nerfstudio writes it; may be there whole from the start, or be written
                      again and again with more frames at its end
    frames.jsonl      the same in lines, for programs that append: the first line is the head of a
                      transforms.json (fl_x, cx, w, h, world_scale, ...), each further line what
                      would be one entry of its "frames"

An image, depth or mask may come after the entry that names it. An empty file `stream.end` says that
nothing more comes. A part of a file is never taken for the whole: a JSON that doesn't parse yet,
and a last line without its end, are read again later.
"""

from __future__ import annotations

import os
import time
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everview.datasets.captures import CaptureInfo
from everview.datasets.errors import DataError, FileMissing
from everview.datasets.formats.transforms_json import FrameReader
from everview.datasets.guards import MAX_JSON_VALUES, file_exists, parse_json, read_json
from everview.datasets.listed import FrameRecord, ReadOptions

END_MARKER = "stream.end"
LINES_NAME, WHOLE_NAME = "frames.jsonl", "transforms.json"
MAX_LINE_BYTES = 2**20

_SETTLED_S = 0.5
_RECENT = 128


class FrameLines:
    """A file of JSON lines that grows: a head, then one object a line, read as they come.

    Of a line eight bytes are kept, where it begins; `entry` reads it again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head: dict[str, Any] | None = None
        self._begins = array("Q")
        self._recent: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._offset = 0
        self._number = 0

    def __len__(self) -> int:
        """Entries so far, the head not among them."""
        return len(self._begins)

    def entry(self, number: int) -> dict[str, Any]:
        """Entry `number`, as it stands in the file."""
        if number not in self._recent:
            with self.path.open("rb") as file:
                file.seek(self._begins[number])
                where = f"{self.path}, entry {number}"
                self._keep(number, self._parsed(file.readline(MAX_LINE_BYTES), where))
        return self._recent[number]

    def _keep(self, number: int, entry: dict[str, Any]) -> None:
        self._recent[number] = entry
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def look(self) -> list[dict[str, Any]]:
        """Read the whole lines that were added, and return the entries among them.

        Raises DataError for a line that is no object.
        """
        added: list[dict[str, Any]] = []
        if not file_exists(self.path):
            return added
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._offset:
                raise DataError(f"{self.path} was made shorter while it was read; lines are added")
            file.seek(self._offset)
            while line := file.readline(MAX_LINE_BYTES):
                if not line.endswith(b"\n"):
                    if len(line) == MAX_LINE_BYTES:
                        raise DataError(f"{self.path} has a line of more than {len(line)} bytes")
                    break  # still being written
                begin = self._offset
                self._offset += len(line)
                self._number += 1
                if line.strip():
                    self._take(line, begin, added)
        return added

    def _take(self, line: bytes, begin: int, added: list[dict[str, Any]]) -> None:
        content = self._parsed(line, f"{self.path}, line {self._number}")
        if self.head is None:
            self.head = content
        elif len(self._begins) >= MAX_JSON_VALUES:
            raise DataError(f"{self.path} lists more than {MAX_JSON_VALUES} frames")
        else:
            self._keep(len(self._begins), content)
            self._begins.append(begin)
            added.append(content)

    @staticmethod
    def _parsed(line: bytes, where: str) -> dict[str, Any]:
        try:
            content = parse_json(line.decode(), where)
        except UnicodeDecodeError:
            raise DataError(f"{where} is not text") from None
        if not isinstance(content, dict):
            raise DataError(f"{where} is not an object")
        return content


class _WholeFile:
    """A transforms.json that is replaced or written over with more frames."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head: dict[str, Any] | None = None
        self._entries: list[Any] = []
        self._seen: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, number: int) -> Any:
        return self._entries[number]

    def look(self) -> None:
        if not file_exists(self.path):
            return
        status = self.path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        if stamp == self._seen or not status.st_size:
            return
        try:
            content = read_json(self.path)
        except DataError:
            if time.time() - status.st_mtime < _SETTLED_S:
                return  # still being written
            raise
        frames = content.get("frames") if isinstance(content, dict) else None
        if not isinstance(frames, list):
            raise DataError(f"{self.path} has no list of frames")
        if len(frames) < len(self._entries):
            raise DataError(f"{self.path} lists fewer frames than before; entries may be added")
        self.head = {key: value for key, value in content.items() if key != "frames"}
        self._entries, self._seen = frames, stamp


class GrowingIndex:
    """What a folder lists so far. `look` again to learn what was added; entries keep their place.

    Raises DataError for an index that can't become a good one.
    """

    def __init__(self, folder: Path, options: ReadOptions) -> None:
        self.folder, self.options = folder, options
        self._file: FrameLines | _WholeFile | None = None
        self._reader: FrameReader | None = None
        self._head: Mapping[str, Any] | None = None

    def look(self) -> None:
        """Read what has changed."""
        if self._file is None:
            for name, kind in ((LINES_NAME, FrameLines), (WHOLE_NAME, _WholeFile)):
                if file_exists(self.folder / name):
                    self._file = kind(self.folder / name)
                    break
            else:
                return
        self._file.look()
        if self._file.head is not None and self._file.head != self._head:
            self._head = self._file.head
            self._reader = FrameReader(self._file.path, self._head, self.options)

    @property
    def is_ended(self) -> bool:
        """Whether the end marker is there."""
        return file_exists(self.folder / END_MARKER)

    def __len__(self) -> int:
        """Frames listed so far, whether their files are there or not."""
        return 0 if self._reader is None or self._file is None else len(self._file)

    def name(self, number: int) -> str:
        """What entry `number` is called."""
        assert self._file is not None
        entry = self._file.entry(number)
        name = entry.get("file_path") if isinstance(entry, dict) else None
        return name if isinstance(name, str) and name else f"frame {number}"

    def record(self, number: int) -> FrameRecord:
        """Entry `number`, once its files are there. Raises FileMissing before, and DataError for
        an entry that no waiting will mend."""
        assert self._file is not None
        assert self._reader is not None
        entry = self._file.entry(number)
        record = self._reader.record(entry)
        if entry.get("depth_file_path") is not None and record.depth is None:
            raise FileMissing(f"no depth file {entry['depth_file_path']}")
        return record

    def has_image(self, number: int) -> bool:
        """Whether there is a file for the image of entry `number`."""
        try:
            self.record(number)
        except FileMissing:
            return False
        except DataError:
            return True
        return True

    def info(self, source: str, number: int) -> CaptureInfo:
        """What can be said of the capture from its head and entry `number`, whose files are there.

        Depth in millimetres means a metric world, as in a finished capture.
        """
        assert self._file is not None
        assert self._reader is not None
        scale, notes = self._reader.scale([self.record(number)])
        known = map(self._file.entry, range(len(self._file)))
        keys = {k for e in known if isinstance(e, dict) for k, v in e.items() if v is not None}
        return CaptureInfo(
            source,
            f"folder being written ({self._file.path.name})",
            scale,
            None,
            True,
            has_depth="depth_file_path" in keys,
            has_time="time" in keys,
            notes=(*notes, f"ends by the file {END_MARKER} or when nothing comes any more"),
        )


def is_settled(path: Path) -> bool:
    """Whether a file was last written to some time ago. Raises FileMissing when it is gone."""
    try:
        return time.time() - path.stat().st_mtime > _SETTLED_S
    except OSError:
        raise FileMissing(f"{path} was taken away") from None
