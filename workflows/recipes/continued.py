"""`trunk` gone on with, in pairs: one change each, against as much more training without it."""

from __future__ import annotations

from dataclasses import replace

from everview.models.config import ModelConfig
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.learning_rate import Budget, Ramp, constant
from everview.workflows.recipes.first_light import first_light, with_bank
from everview.workflows.recipes.second_light import third_light


def base_longer() -> TrainConfig:
    """Ten minutes more of `trunk` on one card, at the later of its sizes and cooled for the second
    half: what the others are compared with."""
    before = third_light()
    late = replace(before.data.shapes[-1], start=0.0)
    data = replace(before.data, shapes=(late,), reuse=first_light().data.reuse)
    return replace(
        before,
        name="base_longer",
        budget=Budget(seconds=600),
        start_from="trunk",
        data=replace(data, stored_share=constant(before.data.stored_share.last)),
        rate=replace(before.rate, warm_up_steps=150),
        loss=replace(before.loss, perceptual=Ramp(0.0, 0.08, 0.5, 0.6)),
        seed=4,
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
    return replace(
        before, name="robust_far_sweep", model=with_bank(before.model, far_shared_by=0.5)
    )


def attend_robust() -> TrainConfig:
    """Both changes."""
    before = attend()
    return replace(before, name="attend_robust", model=_with_pairs(before.model))


def warped() -> TrainConfig:
    """`base_longer`, and tokens see the four nearest frames where the sweep puts them."""
    before = base_longer()
    return replace(before, name="warped", model=with_bank(before.model, warped=4))


def memory_asked() -> TrainConfig:
    """`base_longer`, and 0.6 of the targets are asked of the memory alone instead of 0.25."""
    before = base_longer()
    data = replace(before.data, memory_share=constant(0.6))
    return replace(before, name="memory_asked", data=data)


def two_sizes() -> TrainConfig:
    """`base_longer`, and half of the steps are at 256 px: five scenes instead of twenty.

    Scenes are drawn at 256 px, at four times the cost, so each is used three times as often; shards
    have to be of 256 px. It is measured at 128 px, as its control is.
    """
    before = base_longer()
    (shape,) = before.data.shapes
    large = replace(shape, scenes=shape.scenes // 4, share=0.5, size=256)
    shapes = replace(shape, share=0.5, size=128), large
    data = replace(before.data, size=256, pool_scenes=512, reuse=36.0, shapes=shapes)
    measured = replace(before.evaluation, size=128)
    return replace(before, name="two_sizes", data=data, evaluation=measured)


def _with_pairs(model: ModelConfig) -> ModelConfig:
    return with_bank(model, pair_powers=(0.0, 2.5))


CONTINUED = (
    base_longer, attend, robust_sweep, robust_far_sweep, attend_robust, warped, memory_asked,
    two_sizes,
)  # fmt: skip
