"""Recipes for weights that people use: the one-minute check and the first real run."""

from __future__ import annotations

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


def tiny() -> TrainConfig:
    """About a minute on two cores: 32 px, a two-block model, a loss that falls."""
    data = DataConfig(
        worlds=(World("orbit"),),
        size=32,
        samples_per_pixel=1,
        views=8,
        pool_scenes=8,
        refresh_scenes=2,
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
    """The first published weights: 128 px, 10 scenes of 8 inputs and 8 targets, one GPU.

    20 views a scene, as the scanned objects have; LPIPS joins for the last third.
    """
    return TrainConfig(
        name="first_light",
        budget=Budget(seconds=1200),
        model=models.small(),
        data=DataConfig(
            views=20,
            shapes=(EpisodeShape(10, 8, 8, (1, 2, 4, 8)),),
            augmentation=Augmentation(yaw_share=0.5),
        ),
        loss=LossConfig(
            charbonnier=Ramp(0.0, 0.1, 0.5, 0.6), perceptual=Ramp(0.0, 0.05, 0.65, 0.7)
        ),
        commit_every_s=60,
    )
