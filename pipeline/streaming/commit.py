"""How far a chunk's commit moves the fast weights in this stream, if not as the weights say.

Step and elastic pull are policies of the commit, not slow weights: a stream may set them without
training anything. But a state is the work of its commits. The model that a policy gives shares the
slow weights and has a fingerprint of its own, so a state is gone on with under the policy that
wrote it, and refused under another. A snapshot says which that was.

Steps: models.steps. Elastic pull: LaCET (FSM, arXiv 2604.07350, section 3), models.elastic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from everview.models.config import ModelConfig
from everview.models.elastic import (
    Anchor,
    Elastic,
    ElasticWeightConsolidation,
    FixedAnchor,
    Importance,
    MemoryAwareSynapses,
    StreamingAnchor,
    StreamingEmaAnchor,
    SynapticIntelligence,
)
from everview.models.scene_model import SceneModel
from everview.models.steps import ConstantStep, InverseSqrtStep, StepPolicy
from everview.pipeline.errors import InputRejected, UsageError

_IMPORTANCES: dict[str, Importance] = {
    "mas": MemoryAwareSynapses(),
    "ewc": ElasticWeightConsolidation(),
    "si": SynapticIntelligence(),
}


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

    def applied(self, model: SceneModel) -> SceneModel:
        """The model that commits so; itself where nothing is another."""
        return model.committing(self._step(model.config), self._elastic(model.config))

    def _step(self, config: ModelConfig) -> StepPolicy:
        match self.step:
            case "constant":
                return ConstantStep(self.step_size)
            case "inverse-sqrt":
                return InverseSqrtStep(self.step_size)
        return config.step

    def _elastic(self, config: ModelConfig) -> Elastic | None:
        if self.elastic == "trained":
            return config.elastic
        if self.elastic == "off":
            return None
        importance = _IMPORTANCES[self.elastic]
        return Elastic(importance, self._anchor(), self.pull, self.importance_decay)

    def _anchor(self) -> Anchor:
        match self.anchor:
            case "fixed":
                return FixedAnchor()
            case "streaming":
                return StreamingAnchor()
        return StreamingEmaAnchor(self.anchor_decay)


def written_by(facts: Mapping[str, Any]) -> Commit:
    """The policy that wrote a snapshot with these facts; an older one knew no other than trained.

    Raises InputRejected for what is no policy.
    """
    try:
        return Commit(**facts.get("commit", {}))
    except (TypeError, UsageError) as error:
        raise InputRejected(f"the snapshot's commit policy can't be used: {error}") from error


def check_commit(facts: Mapping[str, Any], ours: Commit, trained: SceneModel) -> None:
    """Raises InputRejected where a snapshot was committed otherwise than a session does. trained:
    the model as its weights say."""
    theirs = written_by(facts)
    if theirs.applied(trained).config != ours.applied(trained).config:
        raise InputRejected(
            f"the snapshot was written with policies.commit {_told(theirs)}, and this session has "
            f"{_told(ours)}: what one commit policy wrote another can't go on with; give the same, "
            "or replay the capture with --fresh"
        )


def _told(policy: Commit) -> str:
    """What differs from the defaults."""
    plain = Commit()
    changed = {
        name: value for name, value in asdict(policy).items() if value != getattr(plain, name)
    }
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "as trained"
