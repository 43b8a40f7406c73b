"""Step policies: how far a commit moves the weights.

Muon throws the gradient's magnitude away, so learned rates can't weaken a write; the step can.
Each policy maps the number of chunks absorbed before to the step of the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ConstantStep:
    """Always `value`; 1 is LaCT."""

    value: float = 1.0

    def steps(self, chunks_before: Tensor) -> Tensor:
        """[...] counts -> [...] steps."""
        return torch.full_like(chunks_before, self.value, dtype=torch.float32)


@dataclass(frozen=True)
class InverseSqrtStep:
    """1/sqrt(n) for the n-th chunk, never under `floor`.

    Writes of equal size, nearly orthogonal to what is there, followed by renormalisation, end with
    equal shares of the state exactly when the n-th is scaled by 1/sqrt(n). The floor keeps a long
    stream learning: its memory then spans about 1/floor^2 chunks.
    """

    floor: float = 0.25

    def steps(self, chunks_before: Tensor) -> Tensor:
        """[...] counts -> [...] steps."""
        return (chunks_before.float() + 1).rsqrt().clamp_min(self.floor)


StepPolicy = ConstantStep | InverseSqrtStep
