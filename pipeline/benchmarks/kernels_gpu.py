"""`everview bench kernels` on a GPU: update and read beside the published formulation.

Correctness first: ours must be within 1.2 times the plain bfloat16 formulation's error against
float64 (read and written weights; for backward passes every gradient), and the elastic and the
published read free of gross faults, or there is no number. The published formulation, compiled,
must in its faster form (launched, or as a graph) come within a tenth of the rate it is known to
reach on an H100 (PUBLISHED) or exceed it, or nothing is reported either: a straw man proves
nothing. All take turns: ours replayed as a CUDA graph, as sessions and training steps run it, and
launched call by call; the published formulation compiled, both ways; the plain one, eager.

Floors, at the 620 TFLOP/s that a good product reaches and 3.0 TB/s, for (1, 768, 1536): 18 L D F
operations take 0.14 ms at 4,096 tokens, 2.2 ms at 65,536; Newton-Schulz of the three sums 0.1 to
0.15 ms whatever L is, as 15 dependent products of a few hundred tiles; activations 18 bytes a token
and channel, 3 us a thousand tokens. Backward: 46 L D F more, recomputation included.

Shapes: N = batch x heads, L tokens, D head width, F hidden width.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from everview.pipeline.benchmarks.gpu_timing import graphed, take_gpu_turns
from everview.pipeline.benchmarks.kernel_case import Case, Formulation, Shape
from everview.pipeline.benchmarks.results import WrongResult
from everview.pipeline.benchmarks.whole_rows import (
    GpuReport,
    gpu_report,
    matmul_ceiling,
    with_peak,
)

FORWARD, PLAIN_STEP, BACKWARD = "forward", "forward, SGD", "forward + backward"

GOALS: Mapping[tuple[str, int, int, int, int], float] = {
    **{(FORWARD, 1, 768, 1536, k << 10): goal for k, goal in ((4, 250), (16, 450), (64, 560))},
    **{(FORWARD, 4, 768, 1536, k << 10): goal for k, goal in ((4, 370), (16, 520), (64, 580))},
    **{(FORWARD, 12, 512, 512, k << 10): goal for k, goal in ((4, 300), (16, 480))},
    **{(BACKWARD, 1, 768, 1536, k << 10): goal for k, goal in ((4, 180), (16, 340), (64, 430))},
    **{(BACKWARD, 4, 768, 1536, k << 10): goal for k, goal in ((16, 380), (64, 420))},
}
"""Useful TFLOP/s on an H100 (backward counts three times forward)."""

PUBLISHED: Mapping[tuple[int, int, int, int], tuple[float, float, float]] = {
    (1, 768, 1536, 4096): (53, 87, 28), (1, 768, 1536, 16384): (113, 429, 146),
    (1, 768, 1536, 65536): (403, 471, 368), (4, 768, 1536, 4096): (174, 380, 95),
    (4, 768, 1536, 16384): (334, 470, 167), (4, 768, 1536, 65536): (438, 493, 194),
    (12, 512, 512, 4096): (61, 124, 54), (12, 512, 512, 16384): (146, 174, 103),
}  # fmt: skip
"""TFLOP/s of the published formulation under torch.compile on an H100 80GB, torch 2.11: forward,
without Newton-Schulz, forward + backward."""

COLUMNS = (
    "what", "N x D x F, L", "ms", "TFLOP/s", "goal", "of ceiling", "of published", "peak GiB",
    "error", "of plain's",
)  # fmt: skip
_ERROR_RATIO = 1.2
_GROSS = 0.2


@dataclass(frozen=True)
class KernelRow:
    """One measurement. ms: median over rounds. tflops: useful operations a second (18 N L D F, with
    backward three times that). ratio_to_published: time of the compiled published formulation,
    launched or as a graph, whichever is faster / this time. peak_gib: allocated beyond the inputs.
    error: norm of the deviation from float64 over its norm, the worst of all results; error_ratio:
    the worst over the plain bfloat16 formulation's."""

    op: str
    shape: str
    tokens: int
    ms: float
    tflops: float
    goal_tflops: float | None
    fraction_of_ceiling: float
    ratio_to_published: float
    peak_gib: float | None = None
    error: float | None = None
    error_ratio: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        return (
            self.op,
            self.shape,
            f"{self.ms:.3f}",
            f"{self.tflops:.0f}",
            "" if self.goal_tflops is None else f"{self.goal_tflops:.0f}",
            f"{self.fraction_of_ceiling:.0%}",
            f"{self.ratio_to_published:.2f}x",
            "" if self.peak_gib is None else f"{self.peak_gib:.2f}",
            "" if self.error is None else f"{self.error:.1e}",
            "" if self.error_ratio is None else f"{self.error_ratio:.2f}",
        )

    def details(self) -> list[str]:
        """Nothing more than the cells."""
        return []


def bench_kernels_gpu(
    device: torch.device,
    rounds: int,
    only: str = "",
    shapes: tuple[tuple[int, int, int, int], ...] = tuple(PUBLISHED),
) -> GpuReport[KernelRow]:
    """Measure the rows whose name and shape, "forward 1 x 768 x 1536, 4096", hold `only`, or one of
    its parts between bars. Raises WrongResult when a check fails."""
    load, ceiling = os.getloadavg()[0], matmul_ceiling(device)
    rows: list[KernelRow] = []
    notes: list[str] = []
    for numbers in shapes:
        shape = Shape(*numbers)
        for op in (FORWARD, PLAIN_STEP, BACKWARD):
            if any(part in f"{op} {shape}" for part in only.split("|")):
                rows += _Contest(op, shape, device, ceiling, rounds).rows(notes)
                gc.collect()
                torch.cuda.empty_cache()
    return gpu_report(rows, device, float(f"{ceiling:.3g}"), rounds, load, notes)


@dataclass(frozen=True)
class _Contest:
    op: str
    shape: Shape
    device: torch.device
    ceiling: float
    rounds: int

    def rows(self, notes: list[str]) -> list[KernelRow]:
        torch._dynamo.reset()  # every shape anew, or the compiler gives up after eight
        case = Case.random(self.shape, self.device)
        case = case.without_newton_schulz() if self.op == PLAIN_STEP else case
        turn = case.backward if self.op == BACKWARD else case.forward
        error, ratio = self._errors(case)
        ours, plain = turn(case.ours), turn(case.plain)
        compiled = turn(torch.compile(case.published, dynamic=False))
        peaks = {"ours": with_peak(ours, self.device)[1]}
        compiled()
        peaks["published, compiled"] = with_peak(compiled, self.device)[1]
        runs: dict[str, Callable[[], object]] = {
            "ours": graphed(ours, self.device),
            "ours, launched": ours,
            "published, compiled": compiled,
            "published, compiled, as a graph": graphed(compiled, self.device),
        }
        if self.op == FORWARD:
            runs["ours, elastic"] = graphed(turn(case.elastic), self.device)
            runs["plain, eager"] = plain
        times = take_gpu_turns(runs, self.rounds, self.device)
        ms = {name: times.median(name) for name in runs}
        baseline = min((name for name in runs if name.startswith("published")), key=ms.__getitem__)
        self._check_published(ms[baseline], notes)
        useful = self.shape.useful * (3 if self.op == BACKWARD else 1)
        key = (self.op, self.shape.n, self.shape.width, self.shape.hidden, self.shape.length)
        return [
            KernelRow(
                op=f"{self.op}: {name}",
                shape=str(self.shape),
                tokens=self.shape.n * self.shape.length,
                ms=ms[name],
                tflops=useful / ms[name] / 1e9,
                goal_tflops=GOALS.get(key) if name == "ours" else None,
                fraction_of_ceiling=useful / ms[name] / 1e9 / self.ceiling,
                ratio_to_published=times.ratio(baseline, name),
                peak_gib=peaks.get(name),
                error=error if name == "ours" else None,
                error_ratio=ratio if name == "ours" else None,
            )
            for name in runs
        ]

    def _errors(self, case: Case) -> tuple[float, float]:
        """Ours against float64, and over the plain formulation's error: the worst of all results.
        For long backward passes, whose float64 form doesn't fit, of the first 16,384 tokens."""
        if self.op == BACKWARD and self.shape.n * self.shape.length > 1 << 16:
            short = Shape(self.shape.n, self.shape.width, self.shape.hidden, 1 << 14)
            case = Case.random(short, self.device)
        exact, low = case.exact(), case
        if self.op == BACKWARD:
            names: tuple[str, ...] = ("qkv", "rates", "weights")
            results = [
                exact.backward(exact.plain)(),
                low.backward(low.plain)(),
                low.backward(low.ours)(),
            ]
        else:
            names = ("read", "weights")
            results = [
                exact.forward(exact.plain)(),
                low.forward(low.plain)(),
                low.forward(low.ours)(),
            ]
        worst, ratio = 0.0, 0.0
        for name, truth, plain, ours in zip(names, *results, strict=True):
            own, others = _error(ours, truth), _error(plain, truth)
            if not own <= _ERROR_RATIO * others:
                raise WrongResult(
                    f"{self.op} {self.shape}: {name} is off by {own:.2e}, the plain bfloat16 "
                    f"formulation by {others:.2e}: no time is reported for a wrong result"
                )
            worst, ratio = max(worst, own), max(ratio, own / others)
        if self.op == FORWARD:
            self._check_gross("elastic", low.elastic, exact.elastic, low, exact)
            self._check_gross("published", low.published, exact.plain, low, exact)
        return worst, ratio

    def _check_gross(
        self, name: str, found: Formulation, true: Formulation, low: Case, exact: Case
    ) -> None:
        """What another formulation reads is near what it should: no garbage is timed."""
        off = _error(low.forward(found)()[0], exact.forward(true)()[0])
        if not off <= _GROSS:
            raise WrongResult(f"{self.op} {self.shape}: the {name} read is off by {off:.2e}")

    def _check_published(self, ms: float, notes: list[str]) -> None:
        """The published formulation takes what it is known to take on this card."""
        known = PUBLISHED.get(
            (self.shape.n, self.shape.width, self.shape.hidden, self.shape.length)
        )
        if known is None or "H100" not in torch.cuda.get_device_name(self.device):
            return
        expected = known[(FORWARD, PLAIN_STEP, BACKWARD).index(self.op)]
        found = self.shape.useful * (3 if self.op == BACKWARD else 1) / ms / 1e9
        text = f"{self.op} {self.shape}: published {found:.0f} TFLOP/s, known {expected:.0f}"
        if found < 0.9 * expected:
            raise WrongResult(f"{text}: slower than it is known to be, so it is no fair baseline")
        if found > 1.1 * expected:
            notes.append(f"{text}: faster than known; ratios are against the faster")


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())
