"""Elastic test-time training: a pull of each committed weight towards an anchor.

LaCET (FSM, arXiv 2604.07350, section 3). One commit, per layer and sample:

    w'  = w + step * direction                      displacement
    F  <- alpha F + (1 - alpha) phi(S)              importance of each weight
    w'' = w' - lambda F * (w' - w*)                 consolidation (the new F, as released)
    w   = renorm(w'')                               norms of the learned initial weights
    w* <- anchor policy (w*, w)                     fixed, streaming, or streaming-EMA

    MAS: phi(S) = |w' - w|;  EWC: (w' - w)^2;  SI: |(w' - w) * (w' - w*)|

lambda = 0 is LaCT bit for bit. F and w* take no gradient. Nothing is averaged over the batch (the
paper averages S; its released code also shares the first layer's F and w* with all layers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from everview.kernels.fast_weight import renormalise

_INITIAL_IMPORTANCE = 1e-6


class ElasticState(NamedTuple):
    """anchor w* and importance F of one matrix, float32, [N, I, O] each."""

    anchor: Tensor
    importance: Tensor


@dataclass(frozen=True)
class MemoryAwareSynapses:
    """phi(S) = |w' - w| (MAS)."""

    def score(self, displacement: Tensor, from_anchor: Tensor) -> Tensor:
        """Importance of this write, [N, I, O]."""
        return displacement.abs()


@dataclass(frozen=True)
class ElasticWeightConsolidation:
    """phi(S) = (w' - w)^2 (EWC)."""

    def score(self, displacement: Tensor, from_anchor: Tensor) -> Tensor:
        """Importance of this write, [N, I, O]."""
        return displacement.square()


@dataclass(frozen=True)
class SynapticIntelligence:
    """phi(S) = |(w' - w) * (w' - w*)| (SI)."""

    def score(self, displacement: Tensor, from_anchor: Tensor) -> Tensor:
        """Importance of this write, [N, I, O]."""
        return (displacement * from_anchor).abs()


@dataclass(frozen=True)
class FixedAnchor:
    """w* stays the learned initial weights ("global" in the paper)."""

    def follow(self, anchor: Tensor, weight: Tensor) -> Tensor:
        """The anchor after a commit."""
        return anchor


@dataclass(frozen=True)
class StreamingAnchor:
    """w* is the weight at the last chunk boundary."""

    def follow(self, anchor: Tensor, weight: Tensor) -> Tensor:
        """The anchor after a commit."""
        return weight


@dataclass(frozen=True)
class StreamingEmaAnchor:
    """w* <- beta w* + (1 - beta) w."""

    beta: float = 0.5

    def follow(self, anchor: Tensor, weight: Tensor) -> Tensor:
        """The anchor after a commit."""
        return self.beta * anchor + (1 - self.beta) * weight


Importance = MemoryAwareSynapses | ElasticWeightConsolidation | SynapticIntelligence
Anchor = FixedAnchor | StreamingAnchor | StreamingEmaAnchor


@dataclass(frozen=True)
class Elastic:
    """An elastic commit. pull is lambda, decay is alpha; the paper's search gave 0.5 for both."""

    importance: Importance = SynapticIntelligence()
    anchor: Anchor = StreamingEmaAnchor()
    pull: float = 0.5
    decay: float = 0.5

    def init_state(self, weight: Tensor) -> ElasticState:
        """State before the first chunk: anchored at the initial weights."""
        weight = weight.detach()
        return ElasticState(weight.clone(), torch.full_like(weight, _INITIAL_IMPORTANCE))

    def commit(
        self, weight: Tensor, direction: Tensor, step: Tensor, norm: Tensor, state: ElasticState
    ) -> tuple[Tensor, ElasticState]:
        """One commit of a matrix [N, I, O] with step [N]; step 0 changes nothing, bit for bit."""
        step = step.view(-1, 1, 1)
        displaced = weight + step * direction
        seen = displaced.detach()
        score = self.importance.score(seen - weight.detach(), seen - state.anchor)
        importance = self.decay * state.importance + (1 - self.decay) * score
        pulled = displaced - self.pull * importance * (displaced - state.anchor)
        moved = renormalise(pulled, norm)
        anchor = self.anchor.follow(state.anchor, moved.detach())
        idle = step == 0
        kept = ElasticState(
            torch.where(idle, state.anchor, anchor), torch.where(idle, state.importance, importance)
        )
        return torch.where(idle, weight, moved), kept
