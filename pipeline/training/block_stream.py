"""Blocks of stored scenes, made ahead of their use: by Ray Data in a cluster, by threads elsewhere.

Either way they come in the order that was asked for, a bounded number ahead, and what goes wrong
with one is raised where it would have been used.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from itertools import islice
from queue import Empty, Full, Queue
from typing import Any

import numpy as np
import torch

from everview.pipeline.training.scene_pool import SceneViews

Make = Callable[[int], SceneViews]

AHEAD = 4
"""Blocks that are ready or in the making."""
_DATASET = 64
"""Blocks of one Ray dataset; the next one begins when it is used up."""
_TASK_CPUS = 0.1
"""What a decoding task reserves: next to nothing, as training may have reserved all processors and
is what waits for it."""


def block_stream(make: Make, numbers: Iterator[int], workers: int = 2) -> Iterator[SceneViews]:
    """make(number) for each of the endless `numbers`, in order, begun ahead.

    In a worker of Ray the blocks are made by `workers` tasks anywhere in the cluster, elsewhere by
    as many threads. Raises what `make` raises. Closing the iterator ends it all.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return _by_ray(make, numbers, workers)
    return _by_threads(make, numbers, workers)


def _by_threads(make: Make, numbers: Iterator[int], workers: int) -> Iterator[SceneViews]:
    with ThreadPoolExecutor(workers, "everview-feed") as pool:
        waiting: deque[Future[SceneViews]] = deque()
        try:
            for number in numbers:
                waiting.append(pool.submit(make, number))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _by_ray(make: Make, numbers: Iterator[int], workers: int) -> Iterator[SceneViews]:
    """Rows are fetched by a thread of their own, so that the next are under way meanwhile."""
    rows: Queue[SceneViews | Exception | None] = Queue(AHEAD)
    stop = threading.Event()

    def fetch() -> None:
        try:
            while not stop.is_set() and (some := list(islice(numbers, _DATASET))):
                with closing(_rows(make, some, workers)) as made:
                    for row in made:
                        if not _put(rows, row, stop):
                            return
            _put(rows, None, stop)
        except Exception as error:  # told where the block would have been used
            _put(rows, error, stop)

    thread = threading.Thread(target=fetch, name="everview-feed", daemon=True)
    thread.start()
    try:
        while (row := _get(rows, thread)) is not None:
            if isinstance(row, Exception):
                raise row
            yield row
    finally:
        stop.set()


def _put(rows: Queue[Any], row: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            rows.put(row, timeout=0.5)
            return True
        except Full:
            continue
    return False


def _get(rows: Queue[Any], thread: threading.Thread) -> Any:
    while True:
        try:
            return rows.get(timeout=1.0)
        except Empty:
            if not thread.is_alive() and rows.empty():
                raise RuntimeError("the thread that feeds stored scenes has ended") from None


def _rows(make: Make, numbers: list[int], workers: int) -> Generator[SceneViews, None, None]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    items = ray.data.from_items([{"number": n} for n in numbers], override_num_blocks=len(numbers))
    # tasks that reserve so little would all be started at once, each a process that imports torch
    made = items.map(_Maker(make), num_cpus=_TASK_CPUS, concurrency=workers)
    for row in made.iter_rows():
        yield SceneViews(**{f.name: _tensor(row[f.name]) for f in fields(SceneViews)})


class _Maker:
    """A block's number to its arrays, in a task."""

    def __init__(self, make: Make) -> None:
        self._make = make

    def __call__(self, row: dict[str, Any]) -> dict[str, np.ndarray]:
        views = self._make(int(row["number"]))
        return {name: tensor.numpy() for name, tensor in vars(views).items()}


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))  # Ray's memory is read-only
