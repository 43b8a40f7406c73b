"""The elastic commit: a pull of each written weight towards an anchor. Reference in plain torch.

LaCET (FSM, arXiv 2604.07350, section 3). One commit, per layer and batch element:

    w'  = w + step * direction                      displacement
    F  <- alpha F + (1 - alpha) phi(S)              importance of each weight
    w'' = w' - lambda F * (w' - w*)                 consolidation (the new F, as released)
    w   = renorm(w'')                               norms of the learned initial weights
    w* <- anchor policy (w*, w)                     fixed, streaming, or streaming-EMA

    mas: phi(S) = |w' - w|;  ewc: (w' - w)^2;  si: |(w' - w) * (w' - w*)|
    fixed: w* stays;  streaming: w* <- w;  ema: w* <- beta w* + (1 - beta) w

lambda = 0 is the plain commit bit for bit. F and w* take no gradient. Nothing is averaged over the
batch (the paper averages S; its released code also shares the first layer's F and w* with all).

Shapes: N = batch x heads, M written matrices, D head width, F hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from everview.kernels.fast_weight.reference import renormalise

Score = Literal["mas", "ewc", "si"]
Follow = Literal["fixed", "streaming", "ema"]


@dataclass(frozen=True)
class ElasticRule:
    """An elastic commit: phi(S), the anchor's policy, lambda, alpha, and beta of "ema"."""

    score: Score = "si"
    anchor: Follow = "ema"
    pull: float = 0.5
    decay: float = 0.5
    beta: float = 0.5


class ElasticState(NamedTuple):
    """anchor w* and importance F, packed as the weights are: float32 [N, M, D, F] each."""

    anchor: Tensor
    importance: Tensor


def elastic_commit(
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norms: Sequence[Tensor],
    rule: ElasticRule,
    state: ElasticState,
) -> tuple[Tensor, ElasticState]:
    """One elastic commit; where step is 0 it changes nothing, bit for bit.

    weights, direction: [N, M, D, F]. step: [N]. norms: as from `reference.initial_norms`.
    """
    step = step.view(-1, 1, 1, 1).to(weights.dtype)
    displaced = weights + step * direction
    seen = displaced.detach()
    score = _score(rule.score, seen - weights.detach(), seen - state.anchor)
    importance = rule.decay * state.importance + (1 - rule.decay) * score
    pulled = displaced - rule.pull * importance * (displaced - state.anchor)
    moved = renormalise(pulled, norms)
    anchor = _followed(rule, state.anchor, moved.detach())
    idle = step == 0
    kept = ElasticState(
        torch.where(idle, state.anchor, anchor), torch.where(idle, state.importance, importance)
    )
    return torch.where(idle, weights, moved), kept


def _score(score: Score, displacement: Tensor, from_anchor: Tensor) -> Tensor:
    """phi(S) of this write."""
    match score:
        case "mas":
            return displacement.abs()
        case "ewc":
            return displacement.square()
        case "si":
            return (displacement * from_anchor).abs()
    raise ValueError(f"importance {score!r}: mas, ewc or si")


def _followed(rule: ElasticRule, anchor: Tensor, moved: Tensor) -> Tensor:
    """The anchor after a commit."""
    match rule.anchor:
        case "fixed":
            return anchor
        case "streaming":
            return moved
        case "ema":
            return rule.beta * anchor + (1 - rule.beta) * moved
    raise ValueError(f"anchor {rule.anchor!r}: fixed, streaming or ema")
