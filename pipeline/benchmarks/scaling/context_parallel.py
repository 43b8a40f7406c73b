"""Context parallel: one capture's frames divided among ranks, against one rank with all of them.

The step is training's, on random pictures: AdamW, one chunk that writes all three matrices, no
frame bank (which every rank would make whole, as it does with one).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from everview.models.scene_model import SceneModel
from everview.models.schedule import SET
from everview.pipeline.benchmarks.scaling.processes import (
    COLLECTIVE_S,
    found_by_ranks,
    idle,
    needed,
    own_device,
    take_ranks_turns,
    told,
    wait_for,
)
from everview.pipeline.benchmarks.scaling.rows import Findings, Goal, Row, Setting, one_line
from everview.pipeline.benchmarks.train import Case, random_episode, stack
from everview.pipeline.training.captured import EAGER_USES, CapturedStep
from everview.pipeline.training.config import OptimiserConfig
from everview.pipeline.training.exchange import Exchange, open_exchange
from everview.pipeline.training.local_ranks import let_go
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.ranks import Ranks
from everview.pipeline.training.step import Objective, training_step

NAME = "context parallel"
GOAL = Goal(0.03, at_most=True, unit="%")
ROUNDS, UNIT_S = 5, 2.0
COMPARED = 3
"""First steps whose losses are compared."""
_PICTURE = {"picture": 1.0}


@dataclass(frozen=True)
class Capture:
    """A capture to divide.

    captured: as CUDA graphs, which need room for two steps. recomputed: activations of a block are
    made again in the backward pass, without which one rank has no room for more than 131K tokens.
    """

    case: Case
    captured: bool
    recomputed: bool = False

    @property
    def form(self) -> str:
        """How its steps are run, in words."""
        return ("captured" if self.captured else "one by one") + ", recomputed" * self.recomputed


def captures(setting: Setting) -> tuple[Capture, ...]:
    """On a GPU 65K to 262K tokens as CUDA graphs, as training runs them, and once without."""
    if setting.on_gpu:
        model = stack(14, 768)
        half = Case("14 layers d 768", model, 1, 32, 32, 256, False, "")
        longer = replace(half, inputs=64, targets=64)
        longest = replace(half, inputs=128, targets=128)
        return (
            Capture(half, True),
            Capture(longest, True, recomputed=True),
            Capture(longer, True),
            Capture(half, False),
        )
    small = stack(1, 64)
    return (Capture(Case("1 layer d 64", small, 1, 4, 4, 32, False, ""), False),)


def context_parallel(setting: Setting, until: float) -> Iterator[Row]:
    """Rows: each capture, its kernels launched one by one or as CUDA graphs."""
    chosen = captures(setting)
    found, failure = found_by_ranks(measure, setting.ranks, setting.device, until, chosen, until)
    for line in needed(found, failure):
        over = setting.ranks / line["ratio"] - 1
        yield Row(
            NAME,
            f"{setting.ranks} ranks, {line['case']}, {line['tokens']} tokens, {line['form']}",
            figure=over,
            unit="%",
            goal=GOAL,
            ms=line["ms"],
            facts={
                name: line[name]
                for name in ("loss_difference", "losses", "peak_gib", "parameters", "rounds_ms")
            },
            failure=line["failure"],
        )
    if failure is not None:
        yield Row(NAME, "what follows", failure=failure)


def measure(rank: int, size: int, path: Path, chosen: tuple[Capture, ...], until: float) -> None:
    """One rank, one capture after the other."""
    exchange = open_exchange(size, COLLECTIVE_S)
    device = own_device()
    for place, capture in enumerate(chosen):
        ends = time.time() + max(until - time.time(), 0.0) / (len(chosen) - place)
        if place and exchange.agree(0, [float(time.time() >= until)])[0]:
            break
        arguments = capture, exchange, device, Findings(path), ends
        failure = None
        try:
            _one_capture(*arguments, [], device.type == "cuda")
        except RuntimeError as error:
            if device.type != "cuda":
                raise
            failure = one_line(error)
        let_go()
        if failure is not None:
            _one_capture(*arguments, [f"not compiled: {failure}"], False)
            let_go()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _one_capture(
    capture: Capture,
    exchange: Exchange,
    device: torch.device,
    findings: Findings,
    until: float,
    said: list[str],
    compiled: bool,
) -> None:
    ranks, case = exchange.ranks, capture.case
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    alone = _Stepper(capture, Ranks(), Exchange(), device, compiled)
    shared = _Stepper(capture, ranks, exchange, device, compiled)
    first = {"one": alone.losses(COMPARED)}
    exchange.agree(0, [0.0])  # exchanging waits for whoever compiles longer
    first["divided"] = shared.losses(COMPARED)
    if capture.captured:
        torch.cuda.empty_cache()
        for stepper in (alone, shared):
            stepper.capture(said)
            exchange.agree(0, [0.0])
    candidates = {
        "one": alone.steps if ranks.leads else idle,
        "each alone": alone.steps,  # as slow as the slowest card of several busy ones
        "divided": shared.steps,
    }
    times = take_ranks_turns(candidates, exchange, ROUNDS, until, UNIT_S)
    if not ranks.leads:
        return
    apart = [abs(a - b) / abs(a) for a, b in zip(first["one"], first["divided"], strict=True)]
    findings.add(
        case=case.name,
        tokens=case.tokens,
        form=capture.form,
        ratio=times.ratio("one", "divided"),
        losses=first,
        loss_difference=max(apart),
        parameters=shared.parameters,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        **told(times, said),
    )


class _Stepper:
    """Training steps on one episode, by the ranks that divide it or by one."""

    def __init__(
        self,
        capture: Capture,
        ranks: Ranks,
        exchange: Exchange,
        device: torch.device,
        compiled: bool,
    ) -> None:
        case = capture.case
        torch.manual_seed(0)
        with torch.device(device):
            self.model = SceneModel(case.config).train()
        self.exchange, self.device = exchange, device
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        objective = Objective(self.model, None, ranks.context)
        config = OptimiserConfig(hidden="adamw", adamw_rate=1e-4)
        optimiser = Optimiser(self.model, config, ranks)
        if compiled:
            self.model.compile_blocks(dynamic=False)
        if capture.recomputed:
            self.model.recompute_blocks()
        self.step: Any = partial(training_step, objective, optimiser)
        self.episode = random_episode(case, case.scenes, device)

    def losses(self, count: int) -> list[float]:
        """Of the next `count` steps."""
        return [float(self._take()) for _ in range(count)]

    def steps(self, count: int) -> None:
        """As the loop takes them, without feeding."""
        for number in range(count):
            self._take()
            self.exchange.agree(number, (0.0, 0.0, 0.0))
        wait_for(self.device)

    def capture(self, said: list[str]) -> None:
        """From now on as a CUDA graph; `said` hears if that can't be."""
        alone = self.exchange.ranks.size == 1
        self.step = CapturedStep(self.step, self.model, said.append, alone)
        self.steps(EAGER_USES + 2)

    def _take(self) -> torch.Tensor:
        return self.step(self.episode, SET, _PICTURE, 1.0).losses["loss"]
