"""Recording work on a GPU as CUDA graphs: what queries, writes and the training step share.

A graph is one launch that repeats what was recorded, on the same memory. So whatever differs
between two uses lies in tensors that stay where they are and are filled before a replay, and
recorded code may neither wait for the device nor decide by values.

Threads: captures are of CUDA's mode "thread_local", in which other threads may launch, allocate
and wait for their own streams meanwhile; in the default mode ("global") an allocation by any of
them would spoil the capture. Waiting for the whole device stays forbidden to all threads while one
of its streams is captured, so what does that here takes its turn: recording, dropping graphs, and
the plain runs before a recording, which compile and tune. No other code that runs beside these
may call `torch.cuda.synchronize`.
"""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch
from torch import Tensor

LINKS = 4
"""Errors of a chain that are told."""

_TURN = threading.RLock()
"""Held by whoever records or waits for the whole device: one thread of the process."""

T = TypeVar("T")


class GraphRecorder:
    """Records on one stream of one GPU, into one pool of memory.

    Its graphs run one after another and leave nothing behind but results, which must be copied out
    before the next replay: all may use the same memory.
    """

    def __init__(self, device: torch.device) -> None:
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()
            self._device = torch.device("cuda", torch.cuda.current_device())
            self._pool = torch.cuda.graph_pool_handle()
        self._failed: list[torch.cuda.CUDAGraph] = []
        self._last_use: torch.cuda.Event | None = None

    def eagerly(self, run: Callable[[], T]) -> T:
        """Run plainly on the stream that will be recorded, in the thread that will record: makes
        their handles and workspaces, which can't be made during a capture.

        Before and after it the streams wait for each other, so its tensors need no further care.
        """
        current = torch.cuda.current_stream(self._device)
        with _TURN:
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    return run()
            finally:  # what an error leaves behind is freed for the current stream's use
                current.wait_stream(self._stream)

    def record(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Record one run; nothing is executed. Returns what replays it, and its result, which
        every replay writes anew.

        The capture minds the calls of this thread alone (`capture_error_mode="thread_local"`): the
        backward pass runs in a thread of autograd's, and other threads go on with their work. After
        an error plain work can go on.
        """
        with _TURN:
            return self._record(run)

    def _record(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        graph = torch.cuda.CUDAGraph()
        self._failed.append(graph)
        try:
            with (
                torch.cuda.device(self._device),
                undisturbed(),
                torch.cuda.graph(
                    graph, self._pool, self._stream, capture_error_mode="thread_local"
                ),
            ):
                result = run()
        except Exception:
            with suppress(Exception):  # a capture that couldn't end left the allocator waiting
                torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
            torch.cuda.synchronize(self._device)
            raise
        self._failed.remove(graph)
        return graph.replay, result

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Work on the shared memory: after what other streams began on it."""
        current = torch.cuda.current_stream(self._device)
        if self._last_use is not None:
            current.wait_event(self._last_use)
        try:
            yield
        finally:
            self._last_use = current.record_event()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """The context in which graphs may be dropped: none runs, and nothing is recorded."""
        with _TURN:
            torch.cuda.synchronize(self._device)
            yield


def twin(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """Room for tensors like this one, strides too: compiled code is made for one layout."""
    place = device or tensor.device
    overlapping = any(
        stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    if overlapping:
        return torch.empty_like(tensor, memory_format=torch.contiguous_format, device=place)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=place)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Collect now, and not within: a graph or an event destroyed during a capture spoils it.

    The current stream is put back too, which a capture that fails doesn't do. The collector is the
    process's, so one thread at a time.
    """
    stream = torch.cuda.current_stream()
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        torch.cuda.set_stream(stream)
        if was_enabled:
            gc.enable()


def described(error: BaseException) -> str:
    """A chain of errors in one line: ending a spoilt capture raises another on top of the cause."""
    chain: list[str] = []
    link: BaseException | None = error
    while link is not None and len(chain) < LINKS:
        frames = traceback.extract_tb(link.__traceback__)
        ours = [frame for frame in frames if "/torch/" not in frame.filename]
        place = f" at {ours[-1].filename}:{ours[-1].lineno}" if ours else ""
        chain.append(f"{type(link).__name__}: {' '.join(str(link).split())[:300]}{place}")
        link = link.__context__
    return ", after ".join(chain)
