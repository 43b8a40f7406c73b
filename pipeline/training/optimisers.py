"""Muon for hidden matrices and AdamW for everything else, in one update without host waits.

Muon (Jordan et al. 2024) replaces the averaged gradient of a matrix by the nearest semi-orthogonal
matrix, so that every direction learns at the same speed; `everview.kernels.newton_schulz` computes
it, for all matrices of one shape in one batch. AdamW (Loshchilov and Hutter 2019) runs over one
flat vector that holds all other gradients.

A step is skipped when its gradient is not finite or far larger than usual. That decision stays on
the device, as a factor of 0 or 1: reading it would make the host wait for the whole backward pass,
every step.

Several ranks average their gradients first; from then on all do the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from everview.models.scene_model import SceneModel
from everview.pipeline.training.averaging import WeightAverage, model_with
from everview.pipeline.training.config import OptimiserConfig
from everview.pipeline.training.gradient_means import GradientMeans, gradient_of
from everview.pipeline.training.parameter_groups import HiddenMatrix, split_parameters
from everview.pipeline.training.pieces import load_pieces, piece_name, whole_sizes
from everview.pipeline.training.ranks import Ranks
from everview.pipeline.training.update_rules import (
    Verdict,
    adamw_update,
    judge,
    nesterov,
    orthogonal_update,
)

MEAN, SQUARE, MOMENTUM, AVERAGE = "mean.", "square.", "momentum.", "average."
"""What the state's tensors are, before the name of the parameter they belong to."""


class Updater(Protocol):
    """What a training step asks of an optimiser, wherever gradients and state live."""

    ranks: Ranks

    def backward(self, loss: Tensor, of: int) -> None:
        """Gradients of one of `of` micro-batches, added up to those of their mean."""
        ...

    def step(self, factor: float | Tensor) -> Verdict:
        """One update at `factor` times the configured rates."""
        ...

    def drop(self) -> None:
        """Forget the gradients of a step that was given up."""
        ...

    def state(self) -> dict[str, Tensor]:
        """This rank's part of everything else that a step changes, by `pieces` names."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up all ranks' `state`, written by any number of them. ValueError if misfit."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """This rank's part of the model's weights, by `pieces` names."""
        ...

    def whole(self) -> SceneModel:
        """The model with all of its weights as they are now; called by every rank."""
        ...

    def result(self) -> SceneModel:
        """The model as it is measured and published: with the running mean of its weights, where
        one is kept, else as `whole`; called by every rank."""
        ...


class Optimiser:
    """One update of all of a model's parameters, which every rank holds whole."""

    def __init__(
        self, model: nn.Module, config: OptimiserConfig, ranks: Ranks | None = None
    ) -> None:
        self.config = config
        self.ranks = ranks or Ranks()
        self._model = model
        groups = split_parameters(model)
        by_shape: dict[tuple[int, int], list[HiddenMatrix]] = defaultdict(list)
        rest = list(groups.rest)
        self._decayed: list[Tensor] = []
        for matrix in groups.hidden:
            if config.hidden == "muon":
                by_shape[matrix.shape].append(matrix)
            elif matrix.first_row == 0:
                rest.append((matrix.name, matrix.parameter))
                self._decayed.append(matrix.parameter)
        self._matrices = dict(by_shape)
        self._names = [name for name, _ in rest]
        self._rest = [parameter for _, parameter in rest]
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._parameters = list(self._trained.values())
        self.gradients = GradientMeans(self._parameters, self.ranks)
        self._added = 0
        device = self._parameters[0].device
        self._sizes = [parameter.numel() for parameter in self._rest]
        self._mean = torch.zeros(sum(self._sizes), device=device)
        self._square = torch.zeros_like(self._mean)
        self._momentum = {
            shape: torch.zeros(len(matrices), *shape, device=device)
            for shape, matrices in self._matrices.items()
        }
        self._accepted_steps = torch.zeros((), device=device)
        self._typical_norm = torch.zeros((), device=device)
        self._average: WeightAverage | None = None
        if config.average_decay is not None:
            self._average = WeightAverage(self._parameters, config.average_decay)

    def backward(self, loss: Tensor, of: int = 1) -> None:
        """See Updater."""
        self._added += 1
        self.gradients.backward(loss / of if of > 1 else loss, last=self._added == of)

    @torch.no_grad()
    def step(self, factor: float | Tensor) -> Verdict:
        """Apply the parameters' gradients at `factor` times the configured rates; drop them.

        factor: a number, or a scalar on the device.
        """
        self._added = 0
        self.gradients.settle()
        verdict = self._judge()
        for shape, matrices in self._matrices.items():
            self._muon(shape, matrices, verdict, factor * self.config.muon_rate)
        self._adamw(verdict, factor * self.config.adamw_rate)
        if self._average is not None:
            self._average.follow(self._parameters, self._accepted_steps, verdict.accepted)
        for parameter in self._parameters:
            parameter.grad = None
        return verdict

    def drop(self) -> None:
        """See Updater."""
        self._added = 0
        self.gradients.drop()

    def state(self) -> dict[str, Tensor]:
        """See Updater; views of the tensors themselves, not copies. Ranks take turns."""
        return self.ranks.dealt(self._whole_state())

    def _whole_state(self) -> dict[str, Tensor]:
        state = {"accepted_steps": self._accepted_steps, "typical_norm": self._typical_norm}
        for kind, flat in ((MEAN, self._mean), (SQUARE, self._square)):
            for name, part in zip(self._names, flat.split(self._sizes), strict=True):
                state[kind + name] = part
        for shape, matrices in self._matrices.items():
            for matrix, momentum in zip(matrices, self._momentum[shape], strict=True):
                place = matrix.first_row * shape[1]
                state[piece_name(MOMENTUM + matrix.name, place)] = momentum
        return state | {AVERAGE + name: mean for name, mean in self.averages().items()}

    def averages(self) -> dict[str, Tensor]:
        """The running means of the weights by name; none where they aren't kept."""
        if self._average is None:
            return {}
        return dict(zip(self._trained, self._average.values, strict=True))

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See Updater; nothing is changed where names or shapes differ."""
        own = self._whole_state()
        load_pieces(own, state, whole_sizes(own))

    def weights(self) -> dict[str, Tensor]:
        """See Updater."""
        return self.ranks.dealt(self._model.state_dict())

    def whole(self) -> SceneModel:
        """See Updater."""
        assert isinstance(self._model, SceneModel)
        return self._model

    def result(self) -> SceneModel:
        """See Updater."""
        if self._average is None:
            return self.whole()
        return model_with(self.averages(), self.whole())

    def _judge(self) -> Verdict:
        """Norm of the whole gradient, and whether to use it, without leaving the device."""
        norms = torch._foreach_norm([gradient_of(p) for p in self._parameters])
        norm = torch.linalg.vector_norm(torch.stack(norms))
        verdict = judge(norm, self._typical_norm, self.config)
        self._accepted_steps.add_(verdict.accepted)
        return verdict

    def _muon(
        self,
        shape: tuple[int, int],
        matrices: list[HiddenMatrix],
        verdict: Verdict,
        rate: float | Tensor,
    ) -> None:
        gradient = torch.stack([matrix.of(gradient_of(matrix.parameter)) for matrix in matrices])
        accepted = verdict.accepted
        ahead = nesterov(gradient, self._momentum[shape], verdict, self.config)
        update, tall = orthogonal_update(ahead, self.config)
        rate = rate * tall
        values = [matrix.of(matrix.parameter) for matrix in matrices]
        torch._foreach_mul_(values, 1 - self.config.weight_decay * rate * accepted)
        torch._foreach_sub_(values, list((update * (rate * accepted)).unbind(0)))

    def _adamw(self, verdict: Verdict, rate: float | Tensor) -> None:
        if not self._rest:
            return
        accepted = verdict.accepted
        gradient = torch.cat([gradient_of(parameter).flatten() for parameter in self._rest])
        averages = self._mean, self._square, self._accepted_steps
        update = adamw_update(gradient, *averages, verdict, rate, self.config)
        if self._decayed:
            torch._foreach_mul_(self._decayed, 1 - self.config.weight_decay * rate * accepted)
        parts = [
            part.view_as(parameter)
            for part, parameter in zip(update.split(self._sizes), self._rest, strict=True)
        ]
        torch._foreach_sub_(list(self._rest), parts)
