"""Elastic test-time training as a configuration: which importance, which anchor, how strong a pull.

The equations are in kernels.fast_weight.elastic (LaCET: FSM, arXiv 2604.07350, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from everview.kernels.fast_weight.commit import ElasticRule, ElasticState, elastic_commit
from everview.kernels.fast_weight.elastic import Follow, Score

_INITIAL_IMPORTANCE = 1e-6


@dataclass(frozen=True)
class MemoryAwareSynapses:
    """phi(S) = |w' - w| (MAS)."""

    score: ClassVar[Score] = "mas"


@dataclass(frozen=True)
class ElasticWeightConsolidation:
    """phi(S) = (w' - w)^2 (EWC)."""

    score: ClassVar[Score] = "ewc"


@dataclass(frozen=True)
class SynapticIntelligence:
    """phi(S) = |(w' - w) * (w' - w*)| (SI)."""

    score: ClassVar[Score] = "si"


@dataclass(frozen=True)
class FixedAnchor:
    """w* stays the learned initial weights ("global" in the paper)."""

    follow: ClassVar[Follow] = "fixed"


@dataclass(frozen=True)
class StreamingAnchor:
    """w* is the weight at the last chunk boundary."""

    follow: ClassVar[Follow] = "streaming"


@dataclass(frozen=True)
class StreamingEmaAnchor:
    """w* <- beta w* + (1 - beta) w."""

    beta: float = 0.5
    follow: ClassVar[Follow] = "ema"


Importance = MemoryAwareSynapses | ElasticWeightConsolidation | SynapticIntelligence
Anchor = FixedAnchor | StreamingAnchor | StreamingEmaAnchor


@dataclass(frozen=True)
class Elastic:
    """An elastic commit. pull is lambda, decay is alpha; the paper's search gave 0.5 for both."""

    importance: Importance = SynapticIntelligence()
    anchor: Anchor = StreamingEmaAnchor()
    pull: float = 0.5
    decay: float = 0.5

    def init_state(self, weights: Tensor) -> ElasticState:
        """State before the first chunk: anchored at the initial weights."""
        weights = weights.detach()
        return ElasticState(weights.clone(), torch.full_like(weights, _INITIAL_IMPORTANCE))

    def commit(
        self,
        weights: Tensor,
        direction: Tensor,
        step: Tensor,
        norms: Sequence[Tensor],
        state: ElasticState,
    ) -> tuple[Tensor, ElasticState]:
        """One commit of packed matrices [N, M, D, F] with step [N]; step 0 changes nothing, bit
        for bit."""
        return elastic_commit(weights, direction, step, norms, self.rule(), state)

    def rule(self) -> ElasticRule:
        """The same, as the kernels take it."""
        beta = self.anchor.beta if isinstance(self.anchor, StreamingEmaAnchor) else 0.0
        return ElasticRule(self.importance.score, self.anchor.follow, self.pull, self.decay, beta)
