"""How far a chunk's commit moves the fast weights in this stream, if not as the weights say.

Step and elastic pull are policies of the commit, not slow weights: a stream may set them without
training anything. But a state is the work of its commits. The model that a policy gives shares the
slow weights and has a fingerprint of its own, so a state is gone on with under the policy that
wrote it, and refused under another. A snapshot says which that was.

Steps: models.steps. Elastic pull: LaCET (FSM, arXiv 2604.07350, section 3), models.elastic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from everview.pipeline.errors import UsageError


@dataclass(frozen=True)
class Commit:
    """Step and elastic pull of every commit; `trained`: as the weights' configuration says. Raises
    UsageError for values out of range."""

    step: Literal["trained", "constant", "inverse-sqrt"] = "trained"
    """constant: always `step_size`; inverse-sqrt: 1/sqrt(n) for the n-th chunk, never under it"""
    step_size: float = 1.0
    """a full step is 1 (LaCT)"""
    elastic: Literal["trained", "off", "mas", "ewc", "si"] = "trained"
    """pull of every fast weight towards an anchor, as strong as the weight is important: by how far
    writes moved it (mas), the square (ewc), or times its way from the anchor (si)"""
    anchor: Literal["fixed", "streaming", "ema"] = "ema"
    """of the pull: the learned initial weights, those before the chunk, or their running mean. With
    an `elastic` that isn't `trained`, as are the next three"""
    pull: float = 0.5
    """lambda. Importances of a Muon step are small: with `si` and `ewc` 0.5 moves little"""
    importance_decay: float = 0.5
    """alpha: share of the old importance that stays at every chunk"""
    anchor_decay: float = 0.5
    """beta: share of the old anchor that stays at every chunk, of `ema`"""

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 4:
            raise UsageError(f"step_size {self.step_size}: above 0 and at most 4")
        if not (math.isfinite(self.pull) and self.pull >= 0):
            raise UsageError(f"pull {self.pull}: 0 or more")
        for name in ("importance_decay", "anchor_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: from 0 to under 1")
