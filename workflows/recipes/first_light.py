"""The one-minute check, the first real run, and the stages that went on with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from everview.models import config as models
from everview.pipeline.training.config import (
    Augmentation,
    DataConfig,
    EpisodeShape,
    EvaluationConfig,
    LossConfig,
    OptimiserConfig,
    TrainConfig,
    World,
)
from everview.pipeline.training.learning_rate import Budget, Ramp, RateSchedule, constant

# A stream's gauge has its first chunk's axes and nearly its typical depth; turning and scaling it
# further cost the memory alone 1.5 dB after 200 steps (15.2 without, 14.7 with a scale of two
# either way, 13.7 with turns, tilt and offsets too; mean colour 13.3): the campaign log, entry 3.
_MILD = Augmentation(yaw_share=0.1, tilt_deg=3.0, scale_range=1.4, offset=0.05)

_AWAY = (0.25, 0.5, 0.8, 1.2, 1.7, 2.5, 3.8, 6.0)
_FINE_OFFSETS = (*(-step for step in reversed(_AWAY)), *_AWAY)
"""close together where depth is likely, and far enough that some frame sees past an outline"""

FEW_CHUNKS = (1, 8)
"""two forms of a step, which compile in half the time of four"""


def with_chunks(data: DataConfig, chunks: tuple[int, ...]) -> DataConfig:
    """Data of one shape of episode, its inputs cut into these numbers of chunks."""
    (shape,) = data.shapes
    return replace(data, shapes=(replace(shape, chunks=chunks),))


def without_bank(model: models.ModelConfig) -> models.ModelConfig:
    """A model that has its memory alone."""
    changes: dict[str, Any] = {"bank": None}
    return replace(model, **changes)


def with_bank(model: models.ModelConfig, **changes: Any) -> models.ModelConfig:
    """A model that has a bank, with other values of it."""
    assert model.bank is not None
    return replace(model, bank=replace(model.bank, **changes))


def tiny() -> TrainConfig:
    """About a minute on two cores: 32 px, a two-block model, a loss that falls."""
    data = DataConfig(
        worlds=(World("orbit"),),
        size=32,
        samples_per_pixel=1,
        views=8,
        pool_scenes=8,
        refresh_scenes=2,
        stored_scenes=32,
        reuse=64,
        shapes=(EpisodeShape(scenes=4, inputs=4, targets=4, chunks=(1, 2, 4)),),
        augmentation=Augmentation(scale_range=1.3, exposure_share=0.0),
    )
    return TrainConfig(
        name="tiny",
        budget=Budget(seconds=40),
        model=models.tiny(),
        data=data,
        rate=RateSchedule(warm_up_steps=20),
        optimiser=OptimiserConfig(adamw_rate=2e-3),
        loss=LossConfig(charbonnier=constant(0.0)),
        evaluation=EvaluationConfig(scenes=4, inputs=4, targets=4, chunks=(1, 4), every_s=1e9),
        commit_every_s=10,
        report_every=10,
    )


def first_light() -> TrainConfig:
    """The first run on a GPU: 128 px, 16 scenes of 8 inputs and 8 targets, one GPU.

    20 views a scene, as the scanned objects have; LPIPS joins for the last third. The memory alone
    answers most targets at first: with the bank in sight it never left the mean colour.
    """
    return TrainConfig(
        name="first_light",
        budget=Budget(seconds=1200),
        model=models.base15m(),
        data=DataConfig(
            worlds=(
                World("orbit", share=0.28),
                World("orbit", dynamic=True, share=0.06),
                World("tabletop", share=0.16),
                World("tabletop", trajectory="video", share=0.08),
                World("tabletop", dynamic=True, share=0.06),
                World("room", share=0.16),
                World("room", trajectory="video", share=0.14),
                World("room", dynamic=True, trajectory="video", share=0.06),
            ),
            views=20,
            stored_share=Ramp(0.15, 0.3, 0.5, 0.7),
            shapes=(EpisodeShape(16, 8, 8, (1, 2, 4, 8)),),
            augmentation=_MILD,
            memory_share=Ramp(0.6, 0.25, 0.3, 0.6),
        ),
        loss=LossConfig(
            charbonnier=Ramp(0.0, 0.1, 0.5, 0.6), perceptual=Ramp(0.0, 0.05, 0.65, 0.7)
        ),
        evaluation=EvaluationConfig(scenes=8, every_s=420),
        commit_every_s=100,
    )


def six_compared() -> TrainConfig:
    """`first_light` gone on with, with six frames compared throughout.

    Its weights are cooled ones, so the rate comes back to a little over half. Scans and what moves
    have larger shares, the bank answers most targets, and LPIPS joins as the cooldown begins.
    """
    before = first_light()
    return replace(
        before,
        name="six_compared",
        budget=Budget(seconds=900),
        start_from="first_light",
        data=replace(
            before.data,
            worlds=(
                World("orbit", share=0.26),
                World("orbit", dynamic=True, share=0.08),
                World("tabletop", share=0.14),
                World("tabletop", trajectory="video", share=0.08),
                World("tabletop", dynamic=True, share=0.10),
                World("room", share=0.12),
                World("room", trajectory="video", share=0.12),
                World("room", dynamic=True, trajectory="video", share=0.10),
            ),
            stored_share=Ramp(0.25, 0.4, 0.3, 0.6),
            memory_share=constant(0.2),
        ),
        rate=RateSchedule(warm_up_steps=150, cooldown=0.6),
        optimiser=OptimiserConfig(muon_rate=0.012),
        loss=LossConfig(
            direct=constant(0.3),
            charbonnier=Ramp(0.0, 0.1, 0.5, 0.6),
            perceptual=Ramp(0.0, 0.08, 0.5, 0.6),
        ),
        evaluation=EvaluationConfig(scenes=8, chunks=(1, 8), every_s=1e9),
        commit_every_s=150,
        seed=1,
    )


def fine_sweep() -> TrainConfig:
    """`six_compared` gone on with, and blocks of 2 x 2 pixels ask the nearest frames for depth."""
    before = six_compared()
    return replace(
        before,
        name="fine_sweep",
        budget=Budget(seconds=1320),
        start_from="six_compared",
        model=with_bank(before.model, fine_offsets=_FINE_OFFSETS),
        evaluation=replace(before.evaluation, scenes=16),
        seed=2,
    )
