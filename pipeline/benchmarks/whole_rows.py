"""What benchmarks on a GPU report: rows of whole models, the report, and what is measured beside
time."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from everview.kernels.backend import backends_in_use
from everview.pipeline.benchmarks.results import WrongResult
from everview.pipeline.runs import library_versions
from everview.pipeline.runs.provenance import describe_device, describe_host

COLUMNS = (
    "what", "shape", "ms", "rate", "goal", "TFLOP/s", "of ceiling", "of published", "peak GiB",
    "error",
)  # fmt: skip

T = TypeVar("T")


class ReportedRow(Protocol):
    """A row of a report: a dataclass, in JSON by its fields."""

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        ...

    def details(self) -> list[str]:
        """Lines below the table."""
        ...


@dataclass(frozen=True)
class WholeRow:
    """One measurement of a whole model. ms: median over rounds. rate: frames, views or tokens a
    second, as `unit` says. goal: what the row is meant to reach, in words. tflops: useful
    operations by formula (operations.py). ceiling_tflops: of a large product in the same run.
    ratio_to_published: published time / this time. peak_gib: most memory allocated for it at any
    moment, compiling and recording included; in inference without the weights. error: relative to
    float32, as the benchmark says. kernels: where the time goes, if asked: name, ms, calls."""

    what: str
    shape: str
    ms: float
    rate: float
    unit: str
    goal: str | None
    tflops: float
    ceiling_tflops: float
    ratio_to_published: float
    peak_gib: float | None
    error: float
    kernels: tuple[tuple[str, float, int], ...] = ()

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return (
            self.what,
            self.shape,
            f"{self.ms:.2f}",
            f"{self.rate:.0f} {self.unit}",
            self.goal or "",
            f"{self.tflops:.0f}",
            f"{self.tflops / self.ceiling_tflops:.0%}",
            f"{self.ratio_to_published:.2f}x",
            "" if self.peak_gib is None else f"{self.peak_gib:.2f}",
            f"{self.error:.0e}",
        )

    def details(self) -> list[str]:
        """The kernels that a profiled row's time went to."""
        lines = [f"\n{self.what}, {self.shape}:"] if self.kernels else []
        return lines + [f"{ms:9.3f} ms {calls:6d} x  {name}" for name, ms, calls in self.kernels]


Row = TypeVar("Row", bound=ReportedRow)


@dataclass(frozen=True)
class GpuReport(Generic[Row]):
    """What was measured, where, and how busy the machine was meanwhile."""

    rows: tuple[Row, ...]
    device: dict[str, Any]
    ceiling_tflops: float
    rounds: int
    load_before: float
    load_after: float
    notes: tuple[str, ...] = ()

    def circumstances(self) -> str:
        """Below the table: where, how, and the kernels of rows that were profiled."""
        lines = [
            f"{self.device['name']}, torch {torch.__version__}; medians of {self.rounds} rounds in "
            f"turn; matmul ceiling {self.ceiling_tflops:.0f} TFLOP/s; load average "
            f"{self.load_before:.1f} before and {self.load_after:.1f} after",
            *self.notes,
        ]
        return "\n".join([*lines, *(line for row in self.rows for line in row.details())])

    def as_json(self) -> dict[str, Any]:
        """Rows with the card and the versions that they were measured with."""
        return {
            "rows": [asdict(row) for row in self.rows],  # type: ignore[call-overload]
            "card": self.device["name"],
            "host": describe_host(),
            "ceiling_tflops": self.ceiling_tflops,
            "rounds": self.rounds,
            "load": [self.load_before, self.load_after],
            "notes": list(self.notes),
            "backends": backends_in_use(torch.device(self.device["type"])),
            "versions": library_versions(),
        }


def gpu_report(
    rows: Sequence[Row],
    device: torch.device,
    ceiling: float,
    rounds: int,
    load_before: float,
    notes: Sequence[str] = (),
) -> GpuReport[Row]:
    """The report of rows that were just measured. load_before: the load average at the start."""
    loads = round(load_before, 2), round(os.getloadavg()[0], 2)
    return GpuReport(tuple(rows), describe_device(device), ceiling, rounds, *loads, tuple(notes))


def matmul_ceiling(device: torch.device) -> float:
    """TFLOP/s of a product of two 8192 x 8192 bfloat16 matrices (256 x 256 without a GPU)."""
    side = 8192 if device.type == "cuda" else 256
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    taken = []
    for _ in range(8):
        wait(device)
        begin = time.perf_counter()
        for _ in range(10):
            left @ right
        wait(device)
        taken.append((time.perf_counter() - begin) / 10)
    return 2 * side**3 / statistics.median(taken) / 1e12


def with_peak(make: Callable[[], T], device: torch.device) -> tuple[T, float | None]:
    """What `make` returns, and the most GiB that were allocated meanwhile beyond what was there."""
    if device.type != "cuda":
        return make(), None
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    made = make()
    torch.cuda.synchronize(device)
    return made, (torch.cuda.max_memory_allocated(device) - before) / 2**30


def relative_error(name: str, found: Tensor, exact: Tensor, scale: Tensor, limit: float) -> float:
    """Root mean square of the deviation over that of `scale`. Raises WrongResult over `limit` and
    where a value isn't finite."""
    deviation = (found.double() - exact.double()).square().mean().sqrt()
    error = float(deviation / scale.double().square().mean().sqrt())
    if not error <= limit:
        raise WrongResult(
            f"{name} is off by {error:.1e}, more than {limit:.0e}: no time is reported for a "
            "wrong result"
        )
    return error


def profiled(
    run: Callable[[], object], device: torch.device, most: int = 25
) -> tuple[tuple[str, float, int], ...]:
    """The kernels of one run that take longest: name, ms in all, calls. Nothing without a GPU."""
    if device.type != "cuda":
        return ()
    wait(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        run()
        wait(device)
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
    return tuple((e.key[:110], e.self_device_time_total / 1e3, e.count) for e in events[:most])


def wait(device: torch.device) -> None:
    """Until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
