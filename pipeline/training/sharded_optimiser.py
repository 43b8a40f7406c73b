"""The project's two update rules where every rank holds a stretch of everything.

DeepSpeed divides parameters, gradients and state among ranks as flat stretches. AdamW works on
stretches as they are. Muon orthogonalises whole matrices: its momentum stays divided, what is to be
orthogonalised is gathered, each rank orthogonalises the matrices that reach into its stretch, and
takes its stretch of the result. So it needs no gradient whole, and reduce-scatter may stay on.

DeepSpeed's own Muon (0.19.8) can't stand in: it orthogonalises in float16 or bfloat16, clips after
orthogonalising, takes a packed projection as one matrix, and its momentum can't be taken up by
another number of ranks. This one is the single process's update to rounding, and its momentum is
stored by parameter like everything else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from everview.models.scene_model import SceneModel
from everview.pipeline.training.averaging import WeightAverage
from everview.pipeline.training.config import OptimiserConfig
from everview.pipeline.training.optimisers import AVERAGE, MEAN, MOMENTUM, SQUARE
from everview.pipeline.training.parameter_groups import HiddenMatrix, split_parameters
from everview.pipeline.training.pieces import load_pieces, piece_name
from everview.pipeline.training.ranks import Ranks
from everview.pipeline.training.update_rules import (
    Verdict,
    adamw_update,
    judge,
    nesterov,
    orthogonal_update,
)


@dataclass(frozen=True)
class Stretch:
    """`length` elements of the parameter `name` from `offset` on, at `place` of what a rank
    holds."""

    name: str
    offset: int
    place: int
    length: int


class ShardedOptimiser(torch.optim.Optimizer):
    """Muon and AdamW for DeepSpeed, as its client's optimiser. One group, hidden matrices first.

    `divide` must be called once DeepSpeed has divided the parameters; steps before change nothing.
    """

    def __init__(self, model: SceneModel, config: OptimiserConfig, ranks: Ranks) -> None:
        groups = split_parameters(model)
        self.config, self.ranks = config, ranks
        self.device = model.device
        self.factor: float | Tensor = 1.0
        self.verdict: Verdict | None = None
        self.matrices: dict[str, list[HiddenMatrix]] = defaultdict(list)
        for matrix in groups.hidden:
            self.matrices[matrix.name].append(matrix)
        parameters = {name: rows[0].parameter for name, rows in self.matrices.items()}
        parameters |= dict(groups.rest)
        self.shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self._all: list[list[Stretch]] = []
        # one after another they start at multiples of 16 bytes, as kernels load, but for a few
        aligned = sorted(parameters.values(), key=lambda parameter: parameter.numel() % 4 != 0)
        super().__init__(aligned, {"lr": 1.0})

    def divide(self, stretches: Sequence[Sequence[Stretch]], held: Tensor) -> None:
        """Say what every rank holds of which parameter. held: this rank's, flat."""
        muon = self.config.hidden == "muon"
        self._all = [list(own) for own in stretches]
        own = self._all[self.ranks.rank]
        self._hidden = [s for s in own if muon and s.name in self.matrices]
        self._rest = [s for s in own if not (muon and s.name in self.matrices)]
        size = {id(part): sum(s.length for s in part) for part in (self._hidden, self._rest)}
        self._momentum = held.new_zeros(size[id(self._hidden)])
        self._mean = held.new_zeros(size[id(self._rest)])
        self._square = torch.zeros_like(self._mean)
        self._accepted_steps = torch.zeros((), device=held.device)
        self._typical_norm = torch.zeros((), device=held.device)
        self._average: WeightAverage | None = None
        if self.config.average_decay is not None:
            self._average = WeightAverage([held.data], self.config.average_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Apply the held gradient at `factor` times the configured rates; leaves `verdict`."""
        if not self._all:
            return
        (held,) = (p for group in self.param_groups for p in group["params"])
        gradient, values = held.grad, held.data
        square = torch.linalg.vector_norm(gradient).square().to(self.device)
        distributed.all_reduce(square)
        verdict = judge(square.sqrt().to(held.device), self._typical_norm, self.config)
        self._accepted_steps.add_(verdict.accepted)
        factor = self.factor.to(held.device) if isinstance(self.factor, Tensor) else self.factor
        if self.config.hidden == "muon":
            self._muon(gradient, values, verdict, factor * self.config.muon_rate)
        self._adamw(gradient, values, verdict, factor * self.config.adamw_rate)
        if self._average is not None:
            self._average.follow([values], self._accepted_steps, verdict.accepted)
        self.verdict = verdict

    def state_pieces(self) -> dict[str, Tensor]:
        """This rank's part of what the next step depends on, by `pieces` names."""
        state: dict[str, Tensor] = {}
        for kind, flat, stretches in self._averages():
            parts = flat.split([s.length for s in stretches])
            for stretch, part in zip(stretches, parts, strict=True):
                state[piece_name(kind + stretch.name, stretch.offset)] = part
        if self._average is not None:
            (flat,) = self._average.values
            for s in self._all[self.ranks.rank]:
                part = flat[s.place : s.place + s.length]
                state[piece_name(AVERAGE + s.name, s.offset)] = part
        return state

    def averages(self) -> dict[str, Tensor]:
        """The running means of the weights, whole and flat, by name; none where they aren't kept.
        Gathered from all ranks, each of which calls this."""
        if self._average is None:
            return {}
        (flat,) = self._average.values
        own = flat.to(self.device)
        found = own.new_empty(len(self._all), len(own))  # equally long on every rank, filled up
        distributed.all_gather(list(found.unbind()), own)
        whole = {
            name: own.new_empty(torch.Size(shape).numel()) for name, shape in self.shapes.items()
        }
        for row, stretches in zip(found, self._all, strict=True):
            for s in stretches:
                whole[s.name][s.offset : s.offset + s.length] = row[s.place : s.place + s.length]
        return whole

    def scalars(self) -> dict[str, Tensor]:
        """What all ranks hold alike."""
        return {"accepted_steps": self._accepted_steps, "typical_norm": self._typical_norm}

    def load_pieces(self, saved: Mapping[str, Tensor]) -> None:
        """Take up what any number of ranks saved. ValueError where it doesn't fit."""
        muon = self.config.hidden == "muon"
        sizes = {name: 1 for name in self.scalars()}
        for name, shape in self.shapes.items():
            kinds = [MOMENTUM] if muon and name in self.matrices else [MEAN, SQUARE]
            kinds += [] if self._average is None else [AVERAGE]
            sizes |= {kind + name: torch.Size(shape).numel() for kind in kinds}
        load_pieces({**self.state_pieces(), **self.scalars()}, saved, sizes)

    def _averages(self) -> tuple[tuple[str, Tensor, list[Stretch]], ...]:
        return (
            (MOMENTUM, self._momentum, self._hidden),
            (MEAN, self._mean, self._rest),
            (SQUARE, self._square, self._rest),
        )

    def _muon(self, gradient: Tensor, values: Tensor, verdict: Verdict, rate: Any) -> None:
        accepted = verdict.accepted
        ahead = nesterov(_of(gradient, self._hidden), self._momentum, verdict, self.config)
        updates = self._orthogonalised(self._gathered(ahead))
        for stretch in self._hidden:
            update, tall = updates[stretch.name]
            part = update[stretch.offset : stretch.offset + stretch.length].to(values.device)
            target = values[stretch.place : stretch.place + stretch.length]
            target.mul_(1 - self.config.weight_decay * rate * tall * accepted)
            target.sub_(part * (rate * tall * accepted))

    def _gathered(self, ahead: Tensor) -> dict[str, Tensor]:
        """The hidden parameters that reach into this rank's stretch, whole and flat."""
        everyone = [[s for s in own if s.name in self.matrices] for own in self._all]
        longest = max(sum(s.length for s in own) for own in everyone)
        padded = torch.zeros(longest, device=self.device)
        padded[: len(ahead)] = ahead
        found = torch.empty(len(everyone), longest, device=self.device)
        distributed.all_gather(list(found.unbind()), padded)
        whole = {
            name: torch.empty(torch.Size(self.shapes[name]).numel(), device=self.device)
            for name in dict.fromkeys(s.name for s in self._hidden)
        }
        for row, own in zip(found, everyone, strict=True):
            for stretch, part in zip(own, row.split(_lengths(own, longest)), strict=False):
                if stretch.name in whole:
                    whole[stretch.name][stretch.offset : stretch.offset + stretch.length] = part
        return whole

    def _orthogonalised(self, whole: dict[str, Tensor]) -> dict[str, tuple[Tensor, float]]:
        """Each parameter's update, flat, and the factor on its rate."""
        by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for name, flat in whole.items():
            value = flat.view(self.shapes[name])
            for matrix in self.matrices[name]:
                by_shape[matrix.shape].append(matrix.of(value))
        updates = {}
        for shape, matrices in by_shape.items():
            update, tall = orthogonal_update(torch.stack(matrices), self.config)
            torch._foreach_copy_(matrices, list(update.unbind()))
            updates[shape] = tall
        return {name: (flat, updates[self.matrices[name][0].shape]) for name, flat in whole.items()}

    def _adamw(self, gradient: Tensor, values: Tensor, verdict: Verdict, rate: Any) -> None:
        accepted = verdict.accepted
        averages = self._mean, self._square, self._accepted_steps
        own = _of(gradient, self._rest)
        update = adamw_update(own, *averages, verdict, rate, self.config)
        parts = update.split([s.length for s in self._rest])
        for stretch, part in zip(self._rest, parts, strict=True):
            target = values[stretch.place : stretch.place + stretch.length]
            if stretch.name in self.matrices:
                target.mul_(1 - self.config.weight_decay * rate * accepted)
            target.sub_(part)


def _lengths(stretches: Sequence[Stretch], total: int) -> list[int]:
    """Lengths of the stretches, and of what is left of `total`."""
    lengths = [stretch.length for stretch in stretches]
    return [*lengths, total - sum(lengths)]


def _of(flat: Tensor, stretches: Sequence[Stretch]) -> Tensor:
    if not stretches:
        return flat[:0]
    return torch.cat([flat[s.place : s.place + s.length] for s in stretches])
