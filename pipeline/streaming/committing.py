"""Models that commit as a stream's policy says (`commit.Commit`), and whose work a snapshot is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

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
from everview.pipeline.streaming.commit import Commit

_IMPORTANCES: dict[str, Importance] = {
    "mas": MemoryAwareSynapses(),
    "ewc": ElasticWeightConsolidation(),
    "si": SynapticIntelligence(),
}


def committing(model: SceneModel, policy: Commit) -> SceneModel:
    """The model that commits so; itself where nothing is another."""
    return model.committing(_step(policy, model.config), _elastic(policy, model.config))


def _step(policy: Commit, config: ModelConfig) -> StepPolicy:
    match policy.step:
        case "constant":
            return ConstantStep(policy.step_size)
        case "inverse-sqrt":
            return InverseSqrtStep(policy.step_size)
    return config.step


def _elastic(policy: Commit, config: ModelConfig) -> Elastic | None:
    if policy.elastic == "trained":
        return config.elastic
    if policy.elastic == "off":
        return None
    importance = _IMPORTANCES[policy.elastic]
    return Elastic(importance, _anchor(policy), policy.pull, policy.importance_decay)


def _anchor(policy: Commit) -> Anchor:
    match policy.anchor:
        case "fixed":
            return FixedAnchor()
        case "streaming":
            return StreamingAnchor()
    return StreamingEmaAnchor(policy.anchor_decay)


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
    if committing(trained, theirs).config != committing(trained, ours).config:
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
