"""Processes that measure: they write down what they find, and have a deadline."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from everview.pipeline.benchmarks.scaling.rows import one_line
from everview.pipeline.benchmarks.timing import Times
from everview.pipeline.errors import EverviewError
from everview.pipeline.training.exchange import Exchange
from everview.pipeline.training.local_ranks import run_ranks

COLLECTIVE_S = 600.0
"""torch.distributed's patience: one rank compiles while the others wait."""
SPAWN_S = 60.0
"""Beyond the time for measuring: to start and to end."""
Found = list[dict[str, Any]]
Steps = Callable[[int], None]
"""Takes so many steps, and waits until they are done."""


def found_by_ranks(
    function: Callable[..., None], ranks: int, device: str, until: float, *arguments: Any
) -> tuple[Found, str | None]:
    """What `function(rank, size, findings' path, *arguments)` found in as many processes, and what
    went wrong, if anything did. They are ended a minute after `until`."""
    deadline_s = max(until - time.time(), 1.0) + SPAWN_S
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.jsonl"
        failure = None
        try:
            run_ranks(
                function, ranks, path, *arguments,
                deadline_s=deadline_s, collective_s=deadline_s, device=device,
            )  # fmt: skip
        except Exception as error:  # what was found until then counts
            failure = one_line(error)
        return _read(path), failure


def found_by_process(
    function: Callable[..., None], until: float, *arguments: Any
) -> tuple[Found, str | None]:
    """The same of one process that no process group is made for; its main thread calls
    `function(findings' path, *arguments)`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.jsonl"
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=_called, args=(function, path, arguments))
        process.start()
        process.join(max(until - time.time(), 1.0) + SPAWN_S)
        failure = None
        if process.is_alive():
            process.kill()
            process.join()
            failure = "not done in time"
        found = _read(path)
        failures = [line["failure"] for line in found if "failure" in line]
        if failures:
            failure = failures[-1]
        elif process.exitcode and failure is None:
            failure = f"its process ended with exit code {process.exitcode}"
        return [line for line in found if "failure" not in line], failure


def _called(function: Callable[..., None], path: Path, arguments: tuple[Any, ...]) -> None:
    try:
        function(path, *arguments)
    except Exception as error:
        with path.open("a") as file:
            file.write(json.dumps({"failure": one_line(error)}) + "\n")
        raise


def _read(path: Path) -> Found:
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # cut by a kill
            continue
    return found


def own_device() -> torch.device:
    """Where this rank's process group exchanges tensors."""
    return torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")


def idle(count: int) -> None:
    """The `Steps` of a rank that has no part in a candidate."""


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_ranks_turns(
    candidates: Mapping[str, Steps],
    exchange: Exchange,
    rounds: int,
    until: float,
    unit_s: float,
) -> Times:
    """Milliseconds of a step of each candidate: once a round in turn, as many steps as take
    `unit_s`, from when all ranks are ready to when all are done. Ranks that have no part wait on
    the host. Called by all ranks with the same names. Ends after `rounds`, or after `until` once
    there are three."""

    def timed(steps: Steps, count: int) -> float:
        exchange.agree(0, [0.0])
        start = time.perf_counter()
        steps(count)
        exchange.agree(0, [0.0])
        return (time.perf_counter() - start) / count

    counts = {}
    for name, steps in candidates.items():
        once = exchange.agree(0, [timed(steps, 1)])[0]
        counts[name] = max(1, min(200, int(unit_s / max(once, 1e-6))))
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name, steps in candidates.items():
            taken[name].append(1e3 * timed(steps, counts[name]))
        if number >= 2 and exchange.agree(0, [float(time.time() >= until)])[0]:
            break
    return Times({name: tuple(values) for name, values in taken.items()})


def told(times: Times, said: Sequence[str]) -> dict[str, Any]:
    """Of turns: median milliseconds of a step, rounded to microseconds, and those of every round,
    by candidate; and what was `said` of a form that is missing, each once."""
    return {
        "ms": {name: round(times.median(name), 3) for name in times.rounds_ms},
        "rounds_ms": {name: list(ms) for name, ms in times.rounds_ms.items()},
        "failure": "; ".join(dict.fromkeys(said)) or None,
    }


def needed(found: Found, failure: str | None) -> Found:
    """Raise what went wrong when nothing was found."""
    if not found:
        raise EverviewError(failure or "nothing was found")
    return found
