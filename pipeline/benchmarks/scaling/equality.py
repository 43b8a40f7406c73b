"""Equal results: ranks against one process in float32, before any of their times counts.

Fast weights are written by their gradient, without Newton-Schulz, which works in bfloat16 on a GPU;
`everview bench ranks` compares with it, in float32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everview.models.scene_model import SceneModel
from everview.models.schedule import SET
from everview.models.state import map_tensors
from everview.pipeline.benchmarks.scaling.processes import (
    COLLECTIVE_S,
    found_by_ranks,
    needed,
    own_device,
)
from everview.pipeline.benchmarks.scaling.rows import Findings, Goal, Row, Setting
from everview.pipeline.benchmarks.train import Case, random_episode, stack
from everview.pipeline.training.config import OptimiserConfig
from everview.pipeline.training.exchange import open_exchange
from everview.pipeline.training.local_ranks import let_go
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.ranks import Ranks
from everview.pipeline.training.step import Objective

NAME = "equal results"
GOAL = Goal(1e-5, at_most=True, unit="")
STEPS = 3
_PICTURE = {"picture": 1.0}


@dataclass(frozen=True)
class Comparison:
    """A case of as many scenes as all ranks have; context: whether they share each."""

    case: Case
    context: bool


def comparisons(setting: Setting) -> tuple[Comparison, ...]:
    """On a GPU 65K tokens each."""
    layers, dim, size = (2, 768, 256) if setting.on_gpu and not setting.small else (1, 64, 32)
    model = replace(stack(layers, dim), memory_optimiser="sgd")
    one = Case(f"{layers} layers d {dim}", model, 1, 32, 32, size, False, "")
    several = replace(one, scenes=4 * setting.ranks, inputs=4, targets=4)
    if size == 32:
        one, several = (replace(case, inputs=4, targets=4) for case in (one, several))
    return Comparison(several, False), Comparison(one, True)


def equal_results(setting: Setting, until: float) -> Iterator[Row]:
    """Rows: data parallel and context parallel; the figure is the largest difference of a loss."""
    chosen = comparisons(setting)
    found, failure = found_by_ranks(measure, setting.ranks, setting.device, until, chosen)
    for line in needed(found, failure):
        yield Row(
            NAME,
            f"{setting.ranks} ranks, {line['way']}, {line['case']}, {line['tokens']} tokens",
            figure=line["loss"],
            unit="",
            goal=GOAL,
            facts={name: line[name] for name in ("gradient", "weights", "losses")},
        )
    if failure is not None:
        yield Row(NAME, "what follows", failure=failure)


def measure(rank: int, size: int, path: Path, chosen: tuple[Comparison, ...]) -> None:
    """One rank: first the leader alone, then all."""
    device = own_device()
    for comparison in chosen:
        case = comparison.case
        exchange = open_exchange(size if comparison.context else 1, COLLECTIVE_S)
        expected = Trained.of(case, Ranks(), device) if rank == 0 else None
        exchange.agree(0, [0.0])
        found = Trained.of(case, exchange.ranks, device)
        if expected is not None:
            moved = (expected.weights - expected.start).norm()
            Findings(path).add(
                way="context parallel" if comparison.context else "data parallel",
                case=case.name,
                tokens=case.tokens,
                loss=max(abs(a - b) for a, b in zip(found.losses, expected.losses, strict=True)),
                losses=[expected.losses, found.losses],
                gradient=float((found.gradient - expected.gradient).norm()
                               / expected.gradient.norm()),
                weights=float((found.weights - expected.weights).norm() / moved),
            )  # fmt: skip
        del expected, found
        let_go()


class ExactObjective(Objective):
    """The objective without autocast."""

    def precision(self) -> AbstractContextManager[Any]:
        """See Objective."""
        return nullcontext()


@dataclass(frozen=True)
class Trained:
    """A few steps: mean losses of all ranks, the first gradient, weights before and after."""

    losses: list[float]
    gradient: Tensor
    start: Tensor
    weights: Tensor

    @staticmethod
    def of(case: Case, ranks: Ranks, device: torch.device) -> Trained:
        """Train on the share of the case's scenes that these ranks have."""
        torch.manual_seed(0)
        model = SceneModel(case.config).to(device).train()
        objective = ExactObjective(model, None, ranks.context)
        config = OptimiserConfig(hidden="adamw", adamw_rate=1e-4, epsilon=1e-6)
        optimiser = Optimiser(model, config, ranks)
        parameters = list(model.parameters())
        cut = partial(_every, ranks)
        episode = map_tensors(cut, random_episode(case, case.scenes, device))
        start, losses, gradient = _flat(parameters), [], torch.empty(0)
        for step in range(STEPS):
            loss, _, _ = objective(episode, SET, _PICTURE)
            optimiser.backward(loss, 1)
            losses.append(float(ranks.mean(loss.detach().clone())))
            if step == 0:
                optimiser.gradients.settle()
                gradient = _flat([p.grad for p in parameters if p.grad is not None])
            optimiser.step(1.0)
        return Trained(losses, gradient, start, _flat(parameters))


def _every(ranks: Ranks, tensor: Tensor) -> Tensor:
    return tensor[ranks.share.positions].contiguous()


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).cpu()
