"""A camera or a video stream: V4L2 devices, RTSP, and MPEG-TS over TCP, decoded in a process of
their own like video files.

A camera can't be made to wait, so a full queue loses its oldest frame, counted. When an RTSP camera
or a device goes away it is opened again until nothing has come for `idle_s`; a TCP stream ends when
its sender closes it. Time stamps count from the first frame; those that start anew go on from where
they were, by the clock of this machine. A run that was killed goes on with what comes now: the
numbers go on, and the time that was missed shows in the time stamps.

Rotation is applied. Cameras come from a file of lines (`datasets.formats.camera_lines`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.captures import CaptureInfo, Frame, Skip
from everview.datasets.errors import DataError
from everview.datasets.formats.camera_lines import CameraLines
from everview.datasets.formats.video_decoder import (
    DecodingLimits,
    Left,
    Picture,
    VideoDecoder,
    VideoHeader,
)
from everview.datasets.formats.video_process import VideoInput
from everview.datasets.lenses import rectify
from everview.pipeline.errors import UsageError
from everview.pipeline.streaming.arrivals import Arrival
from everview.pipeline.streaming.config import SourceOptions
from everview.pipeline.streaming.sources.kept import PassingSource
from everview.pipeline.streaming.sources.skip_list import SkipList
from everview.pipeline.streaming.sources.source import Put

SCHEMES = ("tcp", "rtsp", "v4l2")

_MAX_PIXELS = 16_000_000
_AGAIN_S = 0.5
# What is looked at before the first frame: half a second of it, 200 kB (MPEG-TS waits for all of
# them), and no frames to guess a rate from; FFmpeg's own limits cost five seconds.
_LOOK_AT = (("analyzeduration", "500000"), ("probesize", "200000"), ("fpsprobesize", "0"))


class LiveVideoSource(PassingSource):
    """Frames numbered as they come."""

    can_wait = False

    def __init__(self, url: str, options: SourceOptions) -> None:
        """url: tcp://HOST:PORT (MPEG-TS), rtsp://..., v4l2:///dev/videoN."""
        self._input = live_input(url)
        self._options = options
        self._cameras = None if options.cameras is None else CameraLines(Path(options.cameras))
        self.info = CaptureInfo(
            self._input.name, "live video", "up_to_scale", None, self._cameras is not None,
            has_time=True,
        )  # fmt: skip
        self._clock = _Clock()
        self._next = 0
        self._skipped = SkipList()
        self._decoder: VideoDecoder | None = None
        self._stopping = threading.Event()

    def begin(self, run: Path, say: Callable[[str], None]) -> None:
        self._wait_for_cameras(say)
        self._decoder = decoder = self._opened()
        header = decoder.header
        notes = (f"{header.container}, {header.codec}, {header.width}x{header.height}",)
        scale = "up_to_scale" if self._cameras is None else self._cameras.scale or "up_to_scale"
        self.info = CaptureInfo(
            self._input.name, "live video", scale, None, self._cameras is not None, has_time=True,
            notes=notes,
        )  # fmt: skip
        self.keep_in(run)
        say(f"{self._input.name}: {notes[0]}; Ctrl-C ends the stream")

    def _wait_for_cameras(self, say: Callable[[str], None]) -> None:
        if self._cameras is None:
            return
        until = time.monotonic() + self._options.idle_s
        say(f"waiting for the lens in the first line of {self._cameras.path}")
        while self._cameras.scale is None:
            if time.monotonic() > until:
                raise DataError(f"{self._cameras.path}: no first line came in time")
            self._cameras.look()
            time.sleep(0.05)
        self._cameras.lens()

    def _opened(self) -> VideoDecoder:
        limits = DecodingLimits(silence_s=max(1, round(self._options.idle_s)))
        return VideoDecoder(self._input, _MAX_PIXELS, limits)

    def deliver(self, put: Put) -> None:
        heard_at = time.monotonic()
        while not self._stopping.is_set():
            before = self._next
            is_ended = self._deliver_connection(put)
            if self._next > before:
                heard_at = time.monotonic()
            if is_ended or time.monotonic() - heard_at > self._options.idle_s:
                return
            self._stopping.wait(_AGAIN_S)

    def _deliver_connection(self, put: Put) -> bool:
        """What one connection gives; whether the stream ended with it."""
        try:
            decoder = self._decoder = self._decoder or self._opened()
            with decoder:
                self._clock.starts(decoder.header)
                for item in decoder.read(None):
                    if isinstance(item, Left):
                        self._skipped.add(f"packet {item.packets}", item.reason)
                        continue
                    if not put(self._arrival(item)) or self._stopping.is_set():
                        return True
            return not self._comes_again
        except DataError as error:
            if not self._stopping.is_set():
                self._skipped.add(self._input.name, str(error))
            return not self._comes_again
        finally:
            self._decoder = None

    @property
    def _comes_again(self) -> bool:
        return self._input.container != "mpegts"

    def _arrival(self, picture: Picture) -> Arrival:
        number, time_s, arrived = self._next, self._clock.seconds(picture.pts), time.monotonic()
        self._next += 1
        cursor = {
            "source": self.identity(), "next": self._next, "time_s": time_s,
            "unix_s": time.time(), "skipped": self._skipped.rows,
        }  # fmt: skip
        try:
            frame = self._frame(number, picture.image, time_s)
        except DataError as error:
            self._skipped.add(f"frame {number}", str(error))
            return Arrival(number, None, arrived, str(error), cursor)
        return Arrival(number, frame, arrived, None, cursor)

    def _frame(self, number: int, image: np.ndarray, time_s: float) -> Frame:
        camera: Camera | None = None
        if self._cameras is not None:
            pose = self._pose(time_s)
            height, width = image.shape[:2]
            try:
                lens = self._cameras.lens().fitted(width, height)
                camera, image = lens.camera(pose), rectify(lens, image)
            except ValueError as error:
                raise DataError(f"{self._cameras.path}: {error}") from None
        return Frame(number, f"{number:06d}", image, camera, time_s)

    def _pose(self, time_s: float) -> np.ndarray:
        """The camera's, waiting `patience_s` for its line. Raises DataError when there is none."""
        assert self._cameras is not None
        until = time.monotonic() + self._options.patience_s
        self._cameras.look()
        while not self._cameras.reaches(time_s) and time.monotonic() < until:
            if self._stopping.wait(0.01):
                break
            self._cameras.look()
        pose = self._cameras.pose_at(time_s)
        if pose is None:
            within = self._cameras.within_s
            raise DataError(f"no camera within {within:g} s of its time, {time_s:.3f} s")
        return pose

    def stop(self) -> None:
        self._stopping.set()
        if (decoder := self._decoder) is not None:
            decoder.interrupt()

    def resume(self, cursor: dict[str, Any]) -> None:
        if cursor.get("source") != self.identity():
            raise DataError(f"the run was streaming another source than {self._input.name}")
        self._next = int(cursor["next"])
        self._skipped = SkipList(cursor["skipped"])
        self._clock.goes_on(float(cursor["time_s"]), time.time() - float(cursor["unix_s"]))

    def identity(self) -> str:
        return f"live {self._input.name}"

    @property
    def skipped(self) -> list[Skip]:
        return self._skipped.skips

    def close(self, is_complete: bool) -> None:
        if self._decoder is not None:
            self._decoder.close()
        super().close(is_complete)


class _Clock:
    """Seconds since the first frame of the stream, over connections and jumps back."""

    def __init__(self) -> None:
        self._base = 0.0
        self._offset = 0.0
        self._last: float | None = None
        self._last_at = 0.0
        self._is_new = True

    def starts(self, header: VideoHeader) -> None:
        """A connection was opened: its own count begins with its next frame."""
        self._base = float(header.time_base)
        self._is_new = True

    def goes_on(self, last: float, passed: float) -> None:
        """A run is continued `passed` seconds after its frame at `last` seconds."""
        self._last, self._last_at = last, time.monotonic() - max(0.0, passed)

    def seconds(self, pts: int) -> float:
        """The time of a frame."""
        stamp, now = pts * self._base, time.monotonic()
        if self._is_new or (self._last is not None and stamp + self._offset <= self._last):
            passed = 0.0 if self._last is None else self._last + max(now - self._last_at, 1e-3)
            self._offset, self._is_new = passed - stamp, False
        self._last, self._last_at = stamp + self._offset, now
        return self._last


def live_input(url: str) -> VideoInput:
    """What the decoder may open for a URL. Raises UsageError for one that is none of SCHEMES."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    host = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{host}{parts.path}"  # no password, no query
    if parts.scheme == "v4l2" and not host and parts.path.startswith("/dev/video"):
        return VideoInput(parts.path, shown, "v4l2", "file", "v4l2", is_live=True)
    if parts.scheme == "tcp" and port and parts.hostname:
        # without a query: it could make the decoder listen instead
        return VideoInput(shown, shown, "mpegts", "tcp", "mpegts", _LOOK_AT, is_live=True)
    if parts.scheme == "rtsp" and parts.hostname:
        options = (("rtsp_transport", "tcp"), *_LOOK_AT)
        formats = "rtsp,rtp,sdp,mpegts"
        return VideoInput(url, shown, "rtsp", "rtsp,rtp,tcp,udp", formats, options, is_live=True)
    raise UsageError(
        f"{shown} is not rtsp://HOST/..., tcp://HOST:PORT (MPEG-TS) or v4l2:///dev/videoN"
    )
