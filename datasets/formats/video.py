"""Video files through PyAV: time stamps as presented, rotation applied, frame by frame.

The demuxer is chosen by the file's own first bytes and forced, and only local files may be opened:
a playlist that calls itself .mp4 can't make the decoder read or fetch anything else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from everview.datasets.captures import Capture, CaptureInfo, Frame, Skip
from everview.datasets.errors import DataError
from everview.datasets.guards import regular_file
from everview.datasets.listed import ReadOptions, check_state, no_usable_frame

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

FORMAT = "video"
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".3gp",
})  # fmt: skip
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts"
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
        self.info = CaptureInfo(source, FORMAT, "up_to_scale", None, False)
        with self._opened() as (container, stream):
            rate = stream.average_rate
            self._time_base = stream.time_base or Fraction(1, 1000)
            self._start_pts = stream.start_time or 0
            self.frame_interval_s = float(1 / rate) if rate else 1 / 30
            notes = (
                f"{container.format.name.split(',')[0]}, {stream.codec_context.name}, "
                f"{stream.width}x{stream.height}, {1 / self.frame_interval_s:.3g} frames/s",
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
        resumed_at = self._last_pts
        with self._opened() as (container, stream):
            for pts, frame in self._decoded(container, stream, resumed_at):
                try:
                    image = self._picture(frame)
                except DataError as error:
                    self._last_pts = pts
                    self._skip(f"frame at {self._seconds(pts):.3f} s", str(error))
                    continue
                index, self._next, self._last_pts = self._next, self._next + 1, pts
                yield Frame(index, f"{index:06d}", image, time_s=self._seconds(pts))
        self._check_share()
        if self._next == 0:
            raise DataError(no_usable_frame(self.info.source, self.skipped))

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        import av

        container_name = container_of(self.path)
        if container_name is None:
            raise DataError(
                f"{self.path} is not an MP4, MOV, Matroska, WebM, AVI or MPEG-TS file, whatever "
                "its name says; convert it or give the video itself"
            )
        try:
            container = av.open(
                str(self.path.resolve()),
                format=container_name,
                container_options={
                    "protocol_whitelist": "file",
                    "format_whitelist": _CONTAINERS,
                },
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DataError(f"{self.path} can't be opened as a video: {_said(error)}") from None
        with container:
            if not container.streams.video:
                raise DataError(f"{self.path} holds no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise DataError(f"{self.path} uses a video codec that is not built in")
            pixels = stream.width * stream.height
            if not 0 < pixels <= self.options.max_pixels:
                raise DataError(
                    f"{self.path} states {stream.width}x{stream.height} pixels a frame; readable "
                    f"are 1 to {self.options.max_pixels} pixels"
                )
            stream.thread_type = "AUTO"
            stream.codec_context.options = {"max_pixels": str(self.options.max_pixels)}
            yield container, stream

    def _decoded(
        self, container: InputContainer, stream: VideoStream, after: int | None
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Time stamps later than `after` (None: all) and their frames, in presentation order."""
        if after is not None and self._lands_before(after):
            container.seek(after, stream=stream, backward=True)
        for frame in self._frames(container, stream, after):
            seen = self._last_pts
            if frame.pts is None:
                self._skip("frame without a time stamp", "its packet carries none")
            elif after is not None and frame.pts <= after:
                continue
            elif seen is not None and frame.pts <= seen:
                name = f"frame at {self._seconds(frame.pts):.3f} s"
                self._skip(name, "its time stamp doesn't move on")
            else:
                yield frame.pts, frame

    def _frames(
        self, container: InputContainer, stream: VideoStream, after: int | None
    ) -> Iterator[av.VideoFrame]:
        """All frames from the container's position on; undecodable packets are skipped."""
        import av

        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                self._skip("rest of the file", _said(error))
                return
            is_new = after is None or packet.dts is None or packet.dts > after
            self._packets += bool(is_new and packet.size)
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError) as error:
                if is_new:
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    at = "?" if stamp is None else f"{self._seconds(stamp):.3f}"
                    self._skip(f"packet at {at} s", _said(error))
                continue
            yield from frames

    def _lands_before(self, pts: int) -> bool:
        """Whether seeking to `pts` starts at or before it (MPEG-TS, without an index, may not)."""
        import av

        with self._opened() as (container, stream):
            try:
                container.seek(pts, stream=stream, backward=True)
                first = next(container.decode(stream), None)
            except (av.FFmpegError, OSError):
                return False
        return first is not None and first.pts is not None and first.pts <= pts

    def _seconds(self, pts: int) -> float:
        return float((pts - self._start_pts) * self._time_base)

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3], upright."""
        if frame.is_corrupt:
            raise DataError("the decoder reports it as damaged")
        if frame.width * frame.height > self.options.max_pixels:
            raise DataError(f"it has {frame.width}x{frame.height} pixels, more than the limit")
        image = frame.to_ndarray(format="rgb24")
        quarters = round(frame.rotation / 90) % 4  # counter-clockwise, as np.rot90 turns
        return np.ascontiguousarray(np.rot90(image, quarters))

    def _skip(self, name: str, reason: str) -> None:
        self.skipped.append(Skip(name, reason))
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


def _said(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:120]
