"""The process that demuxes and decodes one video; `video_decoder` starts it and reads its answers.

A decoder is the largest piece of foreign code that a stranger's bytes get to run. Here it crashes,
hangs or asks for memory on its own: this process may open no file but the video, holds limits on
memory and processor time, writes pictures into memory that it shares with its parent and one line
of JSON about each to stdout, and ends with its parent. On stdin it gets the time stamp to go on
after, then one line for each picture that was taken.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from everview.datasets.errors import DataError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts"
_THREADS = 8
_ALIVE_S = 1.0


@dataclass(frozen=True)
class VideoInput:
    """Where a video comes from. The decoder opens nothing else, whatever the bytes say.

    address: an absolute path, a URL or a device. name: what the user called it, for messages.
    container: the demuxer, forced. protocols: the only ones that may be used, for instance `file`
    or `tcp`. formats: demuxers that may be used inside. options: (name, value) pairs for it.
    is_live: it can't be sought in, and its time stamps may start anew.
    """

    address: str
    name: str
    container: str
    protocols: str = "file"
    formats: str = _CONTAINERS
    options: tuple[tuple[str, str], ...] = ()
    is_live: bool = False


@dataclass(frozen=True)
class Job:
    """What to decode and within which limits, as the parent states it on the command line.

    memory_fd: the shared memory, `slots` pictures of at most `max_pixels` RGB pixels.
    memory_mib: beside what is mapped at the start, before `bytes_per_pixel` of the largest picture.
    cpu_s: seconds of processor time, all threads together, for one packet.
    """

    source: VideoInput
    max_pixels: int
    memory_fd: int
    slots: int
    memory_mib: int
    bytes_per_pixel: int
    cpu_s: int


def main() -> None:
    """Serve one video; every way to fail that Python sees becomes a line of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    values = json.loads(sys.argv[1])
    job = Job(**{**values, "source": VideoInput(**values["source"])})
    answers = Answers()
    try:
        _serve(job, Orders(job.slots), answers)
        answers.send("end")
    except DataError as error:
        answers.send("refused", reason=str(error))
    except MemoryError:
        answers.send(
            "refused", reason=f"{job.source.name} needs more memory to decode than is allowed"
        )
    except Exception as error:  # a traceback here would be seen by nobody
        answers.send("refused", reason=f"{job.source.name} can't be decoded: {said(error)}")


class Answers:
    """Lines of JSON for the parent; whatever else writes to stdout goes nowhere."""

    def __init__(self) -> None:
        self._file = os.dup(1)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        self._sent_at = time.monotonic()

    def send(self, kind: str, **values: Any) -> None:
        """One line; waits while the pipe is full."""
        os.write(self._file, json.dumps({"kind": kind, **values}).encode() + b"\n")
        self._sent_at = time.monotonic()

    def alive(self) -> None:
        """A sign of life when nothing was said for a while."""
        if time.monotonic() - self._sent_at > _ALIVE_S:
            self.send("alive")


class Orders:
    """Reads stdin in a thread of its own, which ends the process as soon as the parent is gone."""

    def __init__(self, slots: int) -> None:
        self.start: SimpleQueue[int | None] = SimpleQueue()
        self.free_slots = threading.Semaphore(slots)
        self._parent = os.getppid()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        text, is_started = b"", False
        # another process may have inherited the pipe and hold it open: look at the parent too
        while os.getppid() == self._parent:
            if not select.select([0], [], [], 2.0)[0]:
                continue
            part = os.read(0, 4096)
            if not part:
                break
            *lines, text = (text + part).split(b"\n")
            for line in lines:
                if is_started:
                    self.free_slots.release()
                else:
                    self.start.put(json.loads(line))
                    is_started = True
        os._exit(0)


def _serve(job: Job, orders: Orders, answers: Answers) -> None:
    with mmap.mmap(job.memory_fd, 3 * job.max_pixels * job.slots) as memory:
        import av  # noqa: F401  mapped before the limit on memory is taken from it

        limits = Limits(job)
        limits.renew(0)
        with opened(job) as (container, stream):
            limits.renew(stream.width * stream.height)
            rate, base = stream.average_rate, stream.time_base or Fraction(1, 1000)
            answers.send(
                "opened",
                container=container.format.name.split(",")[0],
                codec=stream.codec_context.name,
                size=[stream.width, stream.height],
                rate=[rate.numerator, rate.denominator] if rate else None,
                time_base=[base.numerator, base.denominator],
                start_pts=stream.start_time or 0,
            )
            Reading(job, orders, answers, limits, memory).run(container, stream)


class Limits:
    """Soft limits of this process, against bombs: a file that is too large gets an error."""

    def __init__(self, job: Job) -> None:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        self._mapped = pages * resource.getpagesize() + job.memory_mib * 2**20
        self._job = job
        # nothing is to be written to a file or left as a core dump
        for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
            resource.setrlimit(kind, (0, 0))

    def renew(self, pixels: int) -> None:
        """Memory for pictures of `pixels`, and processor time for the next packet."""
        self._set(resource.RLIMIT_AS, self._mapped + self._job.bytes_per_pixel * pixels)
        self.renew_time()

    def renew_time(self) -> None:
        """Processor time for the next packet."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._set(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + self._job.cpu_s)

    @staticmethod
    def _set(kind: int, value: int) -> None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, hard))


@contextmanager
def opened(job: Job) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream, with sizes checked. Raises DataError."""
    import av
    from av.stream import Discard

    try:
        source = job.source
        allowed = {"protocol_whitelist": source.protocols, "format_whitelist": source.formats}
        container = av.open(
            source.address,
            format=source.container,
            container_options={**dict(source.options), **allowed},
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{job.source.name} can't be opened as a video: {said(error)}") from None
    with container:
        if not container.streams.video:
            raise DataError(f"{job.source.name} holds no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise DataError(f"{job.source.name} uses a video codec that is not built in")
        if not 0 < stream.width * stream.height <= job.max_pixels:
            raise DataError(
                f"{job.source.name} states {stream.width}x{stream.height} pixels a frame; readable "
                f"are 1 to {job.max_pixels} pixels"
            )
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = min(_THREADS, len(os.sched_getaffinity(0)))
        stream.codec_context.options = {"max_pixels": str(job.max_pixels)}
        yield container, stream


class Reading:
    """One pass over a video: a line for every picture, and for all that can't become one."""

    def __init__(
        self, job: Job, orders: Orders, answers: Answers, limits: Limits, memory: mmap.mmap
    ) -> None:
        self._job, self._orders, self._answers, self._limits = job, orders, answers, limits
        self._memory = memory
        self._packets = 0
        self._pictures = 0

    def run(self, container: InputContainer, stream: VideoStream) -> None:
        """Wait for the order to start, then send what comes after its time stamp (None: all)."""
        after = self._orders.start.get()
        is_live = self._job.source.is_live
        if after is not None and not is_live and self._lands_before(after):
            container.seek(after, stream=stream, backward=True)
        seen = after
        for frame in self._frames(container, stream, after):
            pts = frame.pts
            if pts is None:
                self._skip("frame", None, "its packet carries no time stamp")
            elif after is not None and pts <= after:
                continue
            elif seen is not None and (pts == seen or (pts < seen and not is_live)):
                self._skip("frame", pts, "its time stamp doesn't move on")
            else:
                seen = pts
                self._send(frame, pts)

    def _lands_before(self, pts: int) -> bool:
        """Whether seeking to `pts` starts at or before it (MPEG-TS, without an index, may not)."""
        import av

        with opened(self._job) as (container, stream):
            try:
                container.seek(pts, stream=stream, backward=True)
                first = next(container.decode(stream), None)
            except (av.FFmpegError, OSError):
                return False
        return first is not None and first.pts is not None and first.pts <= pts

    def _frames(
        self, container: InputContainer, stream: VideoStream, after: int | None
    ) -> Iterator[av.VideoFrame]:
        """All frames from the container's position on; undecodable packets are skipped."""
        import av

        packets = container.demux(stream)
        while True:
            self._limits.renew_time()
            self._answers.alive()
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                self._skip("rest", None, said(error))
                return
            is_new = after is None or packet.dts is None or packet.dts > after
            self._packets += bool(is_new and packet.size)
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError) as error:
                if is_new:
                    stamp = packet.pts if packet.pts is not None else packet.dts
                    self._skip("packet", stamp, said(error))
                continue
            yield from frames

    def _send(self, frame: av.VideoFrame, pts: int) -> None:
        import av

        if frame.is_corrupt:
            self._skip("picture", pts, "the decoder reports it as damaged")
            return
        if frame.width * frame.height > self._job.max_pixels:
            size = f"{frame.width}x{frame.height}"
            self._skip("picture", pts, f"it has {size} pixels, more than the limit")
            return
        try:
            # one thread: the decoder's own are at work beside it
            plane = frame.reformat(format="rgb24", threads=1).planes[0]
        except (MemoryError, av.FFmpegError) as error:
            reason = "it needs more memory than is allowed"
            self._skip("picture", pts, reason if isinstance(error, MemoryError) else said(error))
            return
        self._orders.free_slots.acquire()
        start = 3 * self._job.max_pixels * (self._pictures % self._job.slots)
        _copy_rows(memoryview(plane), plane.line_size, 3 * frame.width, self._memory, start)
        self._pictures += 1
        self._answers.send(
            "frame",
            pts=pts,
            packets=self._packets,
            size=[frame.width, frame.height],
            quarters=round(frame.rotation / 90) % 4,
        )

    def _skip(self, what: str, pts: int | None, reason: str) -> None:
        self._answers.send("skip", what=what, pts=pts, packets=self._packets, reason=reason)


def _copy_rows(source: memoryview, stride: int, width: int, target: mmap.mmap, start: int) -> None:
    """Rows of `width` bytes, `stride` apart, end to end into `target` from byte `start` on."""
    height = source.nbytes // stride
    if stride == width:
        target[start : start + height * width] = source
        return
    for row in range(height):
        at = start + row * width
        target[at : at + width] = source[row * stride : row * stride + width]


def said(error: BaseException) -> str:
    """The first line of an exception, short enough for one sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:120]


if __name__ == "__main__":
    main()
