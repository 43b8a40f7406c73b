"""One open video in a process of its own: frames come back through shared memory, one at a time.

`video_process` is what runs there, in a fresh interpreter: `multiprocessing` would import the
caller's script again, and unpickle what a process said that has run a stranger's bytes. Here its
answers are lines of JSON that are checked, and pictures of a checked size. Every wait is bounded,
and a process that crashes, stalls or meets a limit is one DataError.

Measured on two busy cores against decoding in the caller's process: 0.2 s to start; 1080p 15 ms a
frame instead of 14 when nothing else is done, and the wait of a caller that works 10 ms on every
frame falls from 14 to 8 ms, as decoding goes on meanwhile (256x256: from 9 to 0.5 ms).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np

from everview.datasets.errors import DataError
from everview.datasets.formats.video_process import Job, VideoInput

_MODULE = "everview.datasets.formats.video_process"
_SLOTS = 3
_LONGEST_LINE = 2**16

# what reading an answer can raise, whatever is in it
_NONSENSE = (KeyError, TypeError, ValueError, ArithmeticError, RecursionError)


class SilentVideo(DataError):
    """Nothing came for as long as was allowed."""


What = Literal["frame", "picture", "packet", "rest"]


@dataclass(frozen=True)
class DecodingLimits:
    """What a video may cost before it is given up.

    silence_s: seconds without a frame, a skip or a sign of life while one is waited for.
    cpu_s: seconds of processor time for one packet, all threads together. memory_mib and
    bytes_per_pixel: address space of the decoder, besides the libraries; a codec keeps about 20
    pictures of up to 3 bytes a pixel.
    """

    silence_s: int = 60
    cpu_s: int = 120
    memory_mib: int = 1024
    bytes_per_pixel: int = 64


LIMITS = DecodingLimits()


def local_video(path: Path, container: str) -> VideoInput:
    """A file, which may open no other."""
    return VideoInput(str(path.resolve()), str(path), container)


@dataclass(frozen=True)
class VideoHeader:
    """What the container states. rate: average frames a second; None if unknown."""

    container: str
    codec: str
    width: int
    height: int
    rate: Fraction | None
    time_base: Fraction
    start_pts: int


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded frame: uint8 [H, W, 3], upright. packets: read so far in this pass."""

    pts: int
    packets: int
    image: np.ndarray


@dataclass(frozen=True)
class Left:
    """What gave no picture, and why: a frame, its picture, a packet or the rest of the file."""

    what: What
    pts: int | None
    packets: int
    reason: str


class VideoDecoder:
    """A video opened for one pass; a context that ends the process. Raises DataError."""

    def __init__(
        self, source: VideoInput, max_pixels: int, limits: DecodingLimits = LIMITS
    ) -> None:
        """max_pixels: larger frames are left out, larger videos refused."""
        self.source, self._max_pixels, self._limits = source, max_pixels, limits
        self._unread = b""
        size = 3 * max_pixels * _SLOTS
        with _shared_memory(size) as file:
            self._memory = mmap.mmap(file.fileno(), size)
            job = Job(
                source, max_pixels, file.fileno(), _SLOTS,
                limits.memory_mib, limits.bytes_per_pixel, limits.cpu_s,
            )  # fmt: skip
            self._process = _start(job)
        assert self._process.stdout is not None
        self._answers = self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        try:
            self.header = self._header(self._next())
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The decoding process."""
        return self._process.pid

    def __enter__(self) -> VideoDecoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def interrupt(self) -> None:
        """From another thread: whoever waits for a frame finds the process gone."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and collect it; nothing that it holds needs to be finished."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)

    def read(self, after: int | None) -> Iterator[Picture | Left]:
        """What follows the time stamp `after` (None: everything), in presentation order. Once."""
        self._order(json.dumps(after))
        pictures = 0
        while (answer := self._next())["kind"] != "end":
            if answer["kind"] == "alive":
                continue
            try:
                is_skip = answer["kind"] == "skip"
                item = self._left(answer) if is_skip else self._picture(answer, pictures)
            except _NONSENSE:
                raise self._broken("gave an answer that makes no sense") from None
            if isinstance(item, Picture):
                pictures += 1
                self._order("")  # its place is free
            yield item

    def _order(self, line: str) -> None:
        assert self._process.stdin is not None
        # after its end, what it said last, or that it died, is read next
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")

    def _next(self) -> dict[str, Any]:
        """The next answer. Raises DataError when there is none, or it is a refusal."""
        while b"\n" not in self._unread:
            self._wait()
            part = os.read(self._answers, _LONGEST_LINE)
            if not part:
                raise self._died()
            self._unread += part
            if len(self._unread) > 2 * _LONGEST_LINE:
                raise self._broken("gave an answer that makes no sense")
        line, self._unread = self._unread.split(b"\n", 1)
        try:
            answer = json.loads(line)
            kind = answer["kind"]
        except _NONSENSE:
            raise self._broken("gave an answer that makes no sense") from None
        if kind == "refused":
            raise DataError(str(answer.get("reason")))
        return answer

    def _wait(self) -> None:
        """Until there is something to read, `silence_s` at most.

        Counted in waits of a second: one that a stopped or sleeping machine prolongs is still one.
        """
        for _ in range(self._limits.silence_s):
            if self._poll.poll(1000):
                return
        raise SilentVideo(str(self._broken(f"gave no frame within {self._limits.silence_s} s")))

    def _header(self, answer: dict[str, Any]) -> VideoHeader:
        try:
            width, height = map(int, answer["size"])
            return VideoHeader(
                container=str(answer["container"]),
                codec=str(answer["codec"]),
                width=width,
                height=height,
                rate=Fraction(*answer["rate"]) if answer["rate"] else None,
                time_base=Fraction(*answer["time_base"]),
                start_pts=int(answer["start_pts"]),
            )
        except _NONSENSE:
            raise self._broken("gave an answer that makes no sense") from None

    def _left(self, answer: dict[str, Any]) -> Left:
        if answer["what"] not in get_args(What):
            raise ValueError
        pts = None if answer["pts"] is None else int(answer["pts"])
        return Left(answer["what"], pts, int(answer["packets"]), str(answer["reason"]))

    def _picture(self, answer: dict[str, Any], number: int) -> Picture:
        width, height = map(int, answer["size"])
        if min(width, height) < 1 or width * height > self._max_pixels:
            raise ValueError
        start = 3 * self._max_pixels * (number % _SLOTS)
        stored = np.frombuffer(self._memory, np.uint8, 3 * width * height, start)
        # counter-clockwise, as the container's display matrix is read
        turned = np.rot90(stored.reshape(height, width, 3), int(answer["quarters"]))
        return Picture(int(answer["pts"]), int(answer["packets"]), turned.copy())

    def _died(self) -> DataError:
        """What to say of a process that ended without a word."""
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            status = 0
        if status == -signal.SIGXCPU:
            return self._broken(f"used more than {self._limits.cpu_s} s of processor time at once")
        if status == -signal.SIGKILL:
            return self._broken("was killed, perhaps because memory ran out")
        if status < 0:
            return self._broken(f"crashed ({signal.Signals(-status).name})")
        return self._broken(f"ended early (exit status {status})")

    def _broken(self, what: str) -> DataError:
        self.close()
        name, is_live = self.source.name, self.source.is_live
        advice = "" if is_live else "; convert the video"
        return DataError(f"{name} can't be decoded: its decoder {what}{advice}")


def _shared_memory(size: int) -> FileIO:
    """A file without a name, `size` bytes that take memory only where they are written."""
    number = os.memfd_create("everview-video", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    file = FileIO(number, "r+")
    file.truncate(size)
    # the other side can't make the file shorter: reading what is gone would end this process
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(number, fcntl.F_ADD_SEALS, seals)
    return file


def _start(job: Job) -> subprocess.Popen[bytes]:
    paths = [path for path in sys.path if path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "MALLOC_ARENA_MAX": "2",  # an arena reserves 64 MiB of address space a thread
    }
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, json.dumps(asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            pass_fds=(job.memory_fd,),
            process_group=0,  # a terminal's Ctrl-C is for the parent
        )
    except OSError as error:
        raise DataError(f"{job.source.name}: the decoding process can't start: {error}") from None
