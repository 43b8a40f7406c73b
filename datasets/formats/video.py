"""Video files: time stamps as presented, rotation applied, frame by frame.

The demuxer is chosen by the file's own first bytes and forced, and only local files may be opened:
a playlist that calls itself .mp4 can't make the decoder read or fetch anything else. Decoding
happens in a process of its own (`video_decoder`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everview.datasets.captures import Capture, CaptureInfo, Frame, Skip
from everview.datasets.errors import DataError
from everview.datasets.formats.video_decoder import Left, VideoDecoder, local_video
from everview.datasets.guards import regular_file
from everview.datasets.listed import ReadOptions, check_state, no_usable_frame

FORMAT = "video"
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".3gp",
})  # fmt: skip
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_BAD_SHARE, _BAD_GRACE = 0.2, 30


def find(path: Path) -> Path | None:
    """The file itself, if its suffix or its first bytes are a video's; a folder's only video."""
    if path.is_file():
        return path if path.suffix.lower() in VIDEO_SUFFIXES or container_of(path) else None
    if not path.is_dir():
        return None
    videos = [entry for entry in path.iterdir() if entry.suffix.lower() in VIDEO_SUFFIXES]
    return videos[0] if len(videos) == 1 and videos[0].is_file() else None


def container_of(path: Path) -> str | None:
    """The demuxer that the first bytes ask for; None if they are no whitelisted container's."""
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError:
        return None
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if len(head) > 196 and (head[0] == head[188] == 0x47 or head[4] == head[196] == 0x47):
        return "mpegts"
    return None


def read(source: str, index: Path, options: ReadOptions) -> VideoCapture:
    """The frames of a video file, without cameras."""
    return VideoCapture(source, index, options)


class VideoCapture(Capture):
    """Frames in presentation order; `time_s` counts from the stream's start.

    A packet that can't be decoded is skipped, named by its time and counted; when more than a
    fifth are, the file is refused with DataError. Frames whose time stamp doesn't move on are
    skipped too, so that a cursor is one number. Memory doesn't grow with the length.
    """

    def __init__(self, source: str, path: Path, options: ReadOptions | None = None) -> None:
        self.path = path
        self.options = options or ReadOptions()
        regular_file(path)
        with self._opened() as decoder:
            header = decoder.header
        self._time_base, self._start_pts = header.time_base, header.start_pts
        self.frame_interval_s = float(1 / header.rate) if header.rate else 1 / 30
        notes = (
            f"{header.container}, {header.codec}, {header.width}x{header.height}, "
            f"{1 / self.frame_interval_s:.3g} frames/s",
            "time stamps as presented; rotation applied; no cameras",
        )
        self.info = CaptureInfo(
            source, FORMAT, "up_to_scale", None, False, has_time=True, notes=notes
        )
        self._identity: str | None = None
        self.rewind()

    def rewind(self) -> None:
        self._next = 0
        self._last_pts: int | None = None
        self._packets = 0
        self.skipped = []

    def state(self) -> dict[str, Any]:
        return {
            "identity": self.identity(),
            "next": self._next,
            "last_pts": self._last_pts,
            "packets": self._packets,
            "skipped": [[skip.name, skip.reason] for skip in self.skipped],
        }

    def restore(self, state: dict[str, Any]) -> None:
        check_state(state, self)
        self.rewind()
        self._next, self._last_pts = int(state["next"]), state["last_pts"]
        self._packets = int(state["packets"])
        self.skipped = [Skip(name, reason) for name, reason in state["skipped"]]

    def identity(self) -> str:
        if self._identity is None:
            size, edge = regular_file(self.path), 2**20
            digest = hashlib.blake2b(f"{FORMAT}|{size}|".encode(), digest_size=16)
            with self.path.open("rb") as file:
                digest.update(file.read(edge))
                file.seek(max(0, size - edge))
                digest.update(file.read(edge))
            self._identity = digest.hexdigest()
        return self._identity

    def __iter__(self) -> Iterator[Frame]:
        earlier = self._packets
        with self._opened() as decoder:
            for item in decoder.read(self._last_pts):
                self._packets = earlier + item.packets
                if isinstance(item, Left):
                    self._leave_out(item)
                    continue
                index, self._next, self._last_pts = self._next, self._next + 1, item.pts
                time_s = self._seconds(item.pts)
                yield Frame(index, f"{index:06d}", item.image, time_s=time_s)
        self._check_share()
        if self._next == 0:
            raise DataError(no_usable_frame(self.info.source, self.skipped))

    def _opened(self) -> VideoDecoder:
        container = container_of(self.path)
        if container is None:
            raise DataError(
                f"{self.path} is not an MP4, MOV, Matroska, WebM, AVI or MPEG-TS file, whatever "
                "its name says; convert it or give the video itself"
            )
        return VideoDecoder(local_video(self.path, container), self.options.max_pixels)

    def _seconds(self, pts: int) -> float:
        return float((pts - self._start_pts) * self._time_base)

    def _leave_out(self, left: Left) -> None:
        if left.what == "picture":  # its time stamp was fine
            self._last_pts = left.pts
        name = {"rest": "rest of the file", "picture": "frame"}.get(left.what, left.what)
        if left.pts is not None:
            name += f" at {self._seconds(left.pts):.3f} s"
        self.skipped.append(Skip(name, left.reason))
        if len(self.skipped) > _BAD_GRACE:
            self._check_share()

    def _check_share(self) -> None:
        bad = len(self.skipped)
        if bad > 1 and bad > _BAD_SHARE * self._packets:
            last = self.skipped[-1]
            raise DataError(
                f"{self.path} is damaged: {bad} of {self._packets} packets can't be used; the "
                f"last: {last.name}, {last.reason}"
            )
