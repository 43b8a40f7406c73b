"""Timing on a GPU: by device events, several calls at a time, candidates in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from everview.pipeline.benchmarks.timing import Times

_SPAN_MS = 30.0


def graphed(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`run` captured as a CUDA graph (run itself without a GPU)."""
    if device.type != "cuda":
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def take_gpu_turns(
    candidates: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> Times:
    """Milliseconds a call of each candidate: once a round in turn, A B C A B C ..., as many calls
    one after the other as fill 30 ms, so that the host works ahead as it does in use."""
    calls = {}
    for name, run in candidates.items():
        run()
        once = _milliseconds(run, 1, device)
        calls[name] = max(1, min(200, int(_SPAN_MS / max(once, 1e-3))))
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            taken[name].append(_milliseconds(run, calls[name], device))
    return Times({name: tuple(values) for name, values in taken.items()})


def _milliseconds(run: Callable[[], object], calls: int, device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) * 1e3 / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / calls
