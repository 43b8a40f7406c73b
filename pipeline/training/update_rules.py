"""The two update rules, on whole parameters or on stretches of them.

Both change their averages in place, by a factor of 0 where the step was refused, and return what is
to be taken from the weights.

On a GPU each rule is compiled to one kernel: operation by operation, AdamW passes over memory some
25 times where 6 do.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from everview.kernels.newton_schulz import newton_schulz
from everview.pipeline.training.config import OptimiserConfig

_Rule = TypeVar("_Rule", bound=Callable[..., Tensor])


def _one_kernel_on_gpu(rule: _Rule) -> _Rule:
    """`rule`, whose first argument is a tensor, compiled where that lies on a GPU."""

    @functools.cache
    def compiled() -> Callable[..., Tensor]:
        return torch.compile(rule, dynamic=True)  # its import takes seconds

    @functools.wraps(rule)
    def run(first: Tensor, *others: Any) -> Tensor:
        return (compiled() if first.is_cuda else rule)(first, *others)

    return cast(_Rule, run)


class Verdict(NamedTuple):
    """What became of one step's gradient; all scalars on the device."""

    norm: Tensor
    """global norm before clipping"""
    scale: Tensor
    """factor applied to the gradient, 0 where the step was skipped"""
    accepted: Tensor
    """1 or 0"""


def judge(norm: Tensor, typical: Tensor, config: OptimiserConfig) -> Verdict:
    """Whether a gradient of this norm is used, and clipped by how much; `typical`, the running mean
    of norms, is brought up to date in place."""
    limit = torch.where(typical > 0, typical * config.skip_above, torch.inf)
    accepted = (torch.isfinite(norm) & (norm <= limit)).float()
    scale = torch.where(accepted > 0, config.clip / norm.clamp(min=config.clip), 0.0)
    # the running mean also moves, slowly, when a step is refused: no run is refused for ever
    seen = torch.where(torch.isfinite(norm), torch.minimum(norm, limit), typical)
    typical.copy_(torch.where(typical > 0, typical.lerp(seen, 0.02), seen))
    return Verdict(norm, scale, accepted)


def _usable(gradient: Tensor, verdict: Verdict) -> Tensor:
    """The clipped gradient, 0 where it was refused."""
    # not a product: 0 x NaN would let a refused gradient through
    return torch.where(verdict.accepted > 0, gradient * verdict.scale, 0.0)


@_one_kernel_on_gpu
def nesterov(
    gradient: Tensor, momentum: Tensor, verdict: Verdict, config: OptimiserConfig
) -> Tensor:
    """What Muon orthogonalises: the usable gradient looking ahead along its running mean."""
    own = _usable(gradient, verdict)
    momentum.lerp_(own, (1 - config.muon_momentum) * verdict.accepted)
    return own.lerp(momentum, config.muon_momentum)


def orthogonal_update(ahead: Tensor, config: OptimiserConfig) -> tuple[Tensor, float]:
    """Muon's update of matrices [N, R, C] and the factor on its rate, which tall ones get."""
    rows, columns = ahead.shape[-2:]
    return newton_schulz(ahead, config.muon_steps).float(), math.sqrt(max(1.0, rows / columns))


@_one_kernel_on_gpu
def adamw_update(
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    count: Tensor,
    verdict: Verdict,
    rate: float | Tensor,
    config: OptimiserConfig,
) -> Tensor:
    """AdamW's update at this rate without its decay. count: steps accepted, this one too."""
    own = _usable(gradient, verdict)
    mean.lerp_(own, (1 - config.beta1) * verdict.accepted)
    square.lerp_(own.square(), (1 - config.beta2) * verdict.accepted)
    mean_hat = mean / (1 - config.beta1**count).clamp(min=1e-12)
    square_hat = square / (1 - config.beta2**count).clamp(min=1e-12)
    return mean_hat / (square_hat.sqrt() + config.epsilon) * (rate * verdict.accepted)
