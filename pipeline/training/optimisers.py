"""Muon for hidden matrices and AdamW for everything else, in one update without host waits.

Muon (Jordan et al. 2024) replaces the averaged gradient of a matrix by the nearest semi-orthogonal
matrix, so that every direction learns at the same speed; `everview.kernels.newton_schulz` computes
it, for all matrices of one shape in one batch. AdamW (Loshchilov and Hutter 2019) runs over one
flat vector that holds all other gradients.

A step is skipped when its gradient is not finite or far larger than usual. That decision stays on
the device, as a factor of 0 or 1: reading it would make the host wait for the whole backward pass,
every step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from everview.kernels.newton_schulz import newton_schulz
from everview.pipeline.training.config import OptimiserConfig
from everview.pipeline.training.parameter_groups import HiddenMatrix, split_parameters


class Verdict(NamedTuple):
    """What became of one step's gradient; all scalars on the device."""

    norm: Tensor
    """global norm before clipping"""
    scale: Tensor
    """factor applied to the gradient, 0 where the step was skipped"""
    accepted: Tensor
    """1 or 0"""


class Optimiser:
    """One update of all of a model's parameters; the state is a flat dictionary of tensors."""

    def __init__(self, model: nn.Module, config: OptimiserConfig) -> None:
        self.config = config
        groups = split_parameters(model)
        by_shape: dict[tuple[int, int], list[HiddenMatrix]] = defaultdict(list)
        rest = [parameter for _, parameter in groups.rest]
        self._decayed: list[Tensor] = []
        for matrix in groups.hidden:
            if config.hidden == "muon":
                by_shape[matrix.shape].append(matrix)
            elif matrix.first_row == 0:
                rest.append(matrix.parameter)
                self._decayed.append(matrix.parameter)
        self._matrices = dict(by_shape)
        self._rest = rest
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        device = self._parameters[0].device
        self._sizes = [parameter.numel() for parameter in rest]
        flat = torch.zeros(sum(self._sizes), device=device)
        scalar = torch.zeros((), device=device)
        self._state = {
            "adamw.mean": flat,
            "adamw.square": flat.clone(),
            "accepted_steps": scalar,
            "typical_norm": scalar.clone(),
        }
        for rows, columns in self._matrices:
            count = len(self._matrices[rows, columns])
            self._state[f"muon.{rows}x{columns}"] = torch.zeros(count, rows, columns, device=device)

    @torch.no_grad()
    def step(self, factor: float | Tensor) -> Verdict:
        """Apply the parameters' gradients at `factor` times the configured rates; drop them.

        factor: a number, or a scalar on the device.
        """
        for parameter in self._parameters:
            if parameter.grad is None:  # an unused branch: its matrices still share the batch
                parameter.grad = torch.zeros_like(parameter)
        verdict = self._judge()
        for shape, matrices in self._matrices.items():
            self._muon(shape, matrices, verdict, factor * self.config.muon_rate)
        self._adamw(verdict, factor * self.config.adamw_rate)
        for parameter in self._parameters:
            parameter.grad = None
        return verdict

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on, by name; the tensors themselves, not copies."""
        return dict(self._state)

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take a state written by `state`; ValueError when names or shapes differ."""
        if state.keys() != self._state.keys():
            raise ValueError(
                f"optimiser state names {sorted(state)} differ from {sorted(self._state)}"
            )
        for name, value in self._state.items():
            if state[name].shape != value.shape:
                raise ValueError(
                    f"optimiser state {name} has shape {tuple(state[name].shape)}, "
                    f"expected {tuple(value.shape)}"
                )
            value.copy_(state[name])

    def _judge(self) -> Verdict:
        """Norm of the whole gradient, and whether to use it, without leaving the device."""
        norms = torch._foreach_norm([_gradient(p) for p in self._parameters])
        norm = torch.linalg.vector_norm(torch.stack(norms))
        typical = self._state["typical_norm"]
        limit = torch.where(typical > 0, typical * self.config.skip_above, torch.inf)
        accepted = (torch.isfinite(norm) & (norm <= limit)).float()
        scale = torch.where(accepted > 0, self.config.clip / norm.clamp(min=self.config.clip), 0.0)
        # the running mean also moves, slowly, when a step is refused: no run is refused for ever
        seen = torch.where(torch.isfinite(norm), torch.minimum(norm, limit), typical)
        typical.copy_(torch.where(typical > 0, typical.lerp(seen, 0.02), seen))
        self._state["accepted_steps"].add_(accepted)
        return Verdict(norm, scale, accepted)

    def _muon(
        self,
        shape: tuple[int, int],
        matrices: list[HiddenMatrix],
        verdict: Verdict,
        rate: float | Tensor,
    ) -> None:
        gradient = torch.stack([matrix.of(_gradient(matrix.parameter)) for matrix in matrices])
        # not a product: 0 x NaN would let a refused gradient through
        gradient = torch.where(verdict.accepted > 0, gradient * verdict.scale, 0.0)
        mean = self._state[f"muon.{shape[0]}x{shape[1]}"]
        change = (1 - self.config.muon_momentum) * verdict.accepted
        mean.lerp_(gradient, change)
        ahead = gradient.lerp(mean, self.config.muon_momentum)
        update = newton_schulz(ahead, self.config.muon_steps).float()
        rate = rate * math.sqrt(max(1.0, shape[0] / shape[1]))
        values = [matrix.of(matrix.parameter) for matrix in matrices]
        torch._foreach_mul_(values, 1 - self.config.weight_decay * rate * verdict.accepted)
        torch._foreach_sub_(values, list((update * (rate * verdict.accepted)).unbind(0)))

    def _adamw(self, verdict: Verdict, rate: float | Tensor) -> None:
        config, state = self.config, self._state
        if not self._rest:
            return
        gradient = torch.cat([_gradient(parameter).flatten() for parameter in self._rest])
        gradient = torch.where(verdict.accepted > 0, gradient * verdict.scale, 0.0)
        mean, square, count = state["adamw.mean"], state["adamw.square"], state["accepted_steps"]
        mean.lerp_(gradient, (1 - config.beta1) * verdict.accepted)
        square.lerp_(gradient.square(), (1 - config.beta2) * verdict.accepted)
        mean_hat = mean / (1 - config.beta1**count).clamp(min=1e-12)
        square_hat = square / (1 - config.beta2**count).clamp(min=1e-12)
        update = mean_hat / (square_hat.sqrt() + config.epsilon) * (rate * verdict.accepted)
        if self._decayed:
            decay = 1 - config.weight_decay * rate * verdict.accepted
            torch._foreach_mul_(self._decayed, decay)
        parts = [
            part.view_as(parameter)
            for part, parameter in zip(update.split(self._sizes), self._rest, strict=True)
        ]
        torch._foreach_sub_(list(self._rest), parts)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
