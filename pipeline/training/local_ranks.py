"""Several ranks on this machine: a function run by as many processes, with a deadline."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import multiprocessing

from everview.pipeline.errors import EnvironmentUnfit, EverviewError


def run_ranks(
    function: Callable[..., None],
    size: int,
    *arguments: Any,
    deadline_s: float = 180.0,
    collective_s: float = 60.0,
    device: str = "cpu",
) -> None:
    """`function(rank, size, *arguments)` in `size` processes that can reach each other: on the CPU
    through gloo, or with `cuda` on a GPU each through NCCL.

    The function is found by its name: it belongs to a module, and what it finds out it writes into
    a file. collective_s: torch.distributed's own patience. Raises what a process raised,
    EnvironmentUnfit when there are fewer GPUs, or EverviewError when they aren't done after
    `deadline_s`; no process is left.
    """
    if device == "cuda" and size > (cards := torch.cuda.device_count()):
        raise EnvironmentUnfit(f"{size} ranks need a GPU each, and there are {cards}; give fewer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = (function, size, port, collective_s, device, arguments)
    context = multiprocessing.start_processes(
        _member, given, size, join=False, start_method="spawn"
    )
    ends = time.monotonic() + deadline_s
    try:
        while not context.join(timeout=max(0.0, ends - time.monotonic()), grace_period=10):
            if time.monotonic() >= ends:
                raise EverviewError(f"{size} ranks were not done after {deadline_s:g} s")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()


def take_card(number: int) -> None:
    """This process sees the `number`th of the cards it was given alone, as `cuda:0`; call it before
    anything that uses CUDA.

    A card's number stands in the code that torch compiles for it, and in its caches' keys: where
    every process calls its own `cuda:0`, one finds what another has compiled. Raises
    EnvironmentUnfit when CUDA_VISIBLE_DEVICES doesn't have so many.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number)
        return
    cards = [card for card in given.split(",") if card.strip()]
    if number >= len(cards):
        raise EnvironmentUnfit(
            f"no card number {number}, from 0, among CUDA_VISIBLE_DEVICES={given}: name as many "
            "cards there as there are ranks"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = cards[number]


def let_go() -> None:
    """Drop graphs, which hold NCCL's communicators, before those are ended."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _member(
    rank: int,
    function: Callable[..., None],
    size: int,
    port: int,
    collective_s: float,
    device: str,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(size),
        LOCAL_RANK="0" if device == "cuda" else str(rank),  # to DeepSpeed, the card's number
    )  # fmt: skip
    if device == "cuda":
        take_card(rank)
        torch.cuda.set_device(0)
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=collective_s),
    )
    function(rank, size, *arguments)
    let_go()
    torch.distributed.destroy_process_group()
