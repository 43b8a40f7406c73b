"""`base` gone on with, in pairs: one change each, against as much more training without it."""

from __future__ import annotations

from dataclasses import replace

from everview.models.config import ModelConfig
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.learning_rate import Budget
from everview.workflows.recipes.published import base

_FINE_OFFSETS = tuple(
    sign * step
    for sign in (-1.0, 1.0)
    for step in sorted((0.25, 0.5, 0.8, 1.2, 1.7, 2.5, 3.8, 6.0), reverse=sign < 0)
)
"""close together where depth is likely, and far enough that some frame sees past an outline"""


def base_longer() -> TrainConfig:
    """Ten more minutes of `base` as it is: what the others are compared with."""
    before = base()
    return replace(
        before,
        name="base_longer",
        budget=Budget(seconds=600),
        start_from="base",
        evaluation=replace(before.evaluation, scenes=16),
        seed=2,
    )


def attend() -> TrainConfig:
    """`base_longer`, and queries look at the frames they are compared with, in three layers."""
    before = base_longer()
    return replace(before, name="attend", model=replace(before.model, cross_view=3))


def robust_sweep() -> TrainConfig:
    """`base_longer`, and the sweep is told how far pairs of frames agree, whatever is occluded."""
    before = base_longer()
    return replace(before, name="robust_sweep", model=_with_pairs(before.model))


def robust_far_sweep() -> TrainConfig:
    """`robust_sweep`, and depths are tried as far as what half of a view's frames see."""
    before = robust_sweep()
    bank = before.model.bank
    assert bank is not None
    model = replace(before.model, bank=replace(bank, far_shared_by=0.5))
    return replace(before, name="robust_far_sweep", model=model)


def attend_robust() -> TrainConfig:
    """Both changes."""
    before = attend()
    return replace(before, name="attend_robust", model=_with_pairs(before.model))


def fine_sweep() -> TrainConfig:
    """`base_longer`, and blocks of 2 x 2 pixels look for agreement around the tokens' depth."""
    before = base_longer()
    bank = before.model.bank
    assert bank is not None
    model = replace(before.model, bank=replace(bank, fine_offsets=_FINE_OFFSETS))
    return replace(before, name="fine_sweep", model=model)


def _with_pairs(model: ModelConfig) -> ModelConfig:
    assert model.bank is not None
    return replace(model, bank=replace(model.bank, pair_powers=(0.0, 2.5)))


CONTINUED = base_longer, attend, robust_sweep, robust_far_sweep, attend_robust, fine_sweep
