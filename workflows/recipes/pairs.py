"""Recipes of pair matchers: five minutes of a GPU, and a minute of a CPU to see that it learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from everview.models.pairs.config import PairConfig
from everview.pipeline.training.config import DataConfig, EpisodeShape
from everview.pipeline.training.learning_rate import Budget, RateSchedule
from everview.pipeline.training.pairs.config import WORLDS, PairTrainConfig


def pairs() -> PairTrainConfig:
    """What `--poses learned` uses: 3.2M parameters, five minutes of an H100."""
    return PairTrainConfig(name="pairs", budget=Budget(seconds=280))


def pairs_tiny() -> PairTrainConfig:
    """64 px and a small network: a CPU core sees the errors fall in minutes."""
    config = pairs()
    return replace(
        config,
        name="pairs_tiny",
        budget=Budget(steps=300),
        model=PairConfig(
            stem=16, fine=32, dim=64, heads=2, own_layers=1, joint_layers=1, match=32, hidden=32,
            iterations=2, place=16,
        ),
        data=DataConfig(
            worlds=WORLDS, size=64, views=8, pool_scenes=124, refresh_scenes=4, reuse=96.0,
            samples_per_pixel=1,
            shapes=(EpisodeShape(scenes=8, inputs=1, targets=1, chunks=(1,)),),
        ),
        pairs=8,
        sizes=((64, 1.0),),
        rate=RateSchedule(warm_up_steps=20, cooldown=0.5),
        optimiser=replace(config.optimiser, adamw_rate=2e-3, average_decay=0.98),
        held_out_scenes=8,
    )  # fmt: skip


PAIR_RECIPES: Mapping[str, Callable[[], PairTrainConfig]] = {
    recipe.__name__: recipe for recipe in (pairs, pairs_tiny)
}
