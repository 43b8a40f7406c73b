"""Several ranks on this machine: a function run by as many processes, with a deadline."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

DEADLINE_S = 180.0


def run_ranks(function: Callable[..., None], size: int, folder: Path, *arguments: Any) -> None:
    """`function(rank, size, folder, *arguments)` in `size` processes that can reach each other.

    What they find out they write into `folder`. Raises what a process raised, or TimeoutError.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.start_processes(
        _member, (function, size, port, folder, arguments), size, join=False, start_method="spawn"
    )
    try:
        if not context.join(timeout=DEADLINE_S, grace_period=10):
            # one has ended; the others get the rest of the time
            while not context.join(timeout=DEADLINE_S, grace_period=10):
                pass
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()


def _member(
    rank: int,
    function: Callable[..., None],
    size: int,
    port: int,
    folder: Path,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size),
        LOCAL_RANK=str(rank),
    )  # fmt: skip
    torch.distributed.init_process_group(
        "gloo", rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    function(rank, size, folder, *arguments)
    torch.distributed.destroy_process_group()
