"""Recipes of the weights that people use, from nothing and from `trunk`."""

from __future__ import annotations

from dataclasses import replace

from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.learning_rate import Budget
from everview.workflows.recipes.continued import base_longer
from everview.workflows.recipes.second_light import third_light

_LAYERS_OF_SMALL = (0, 1, 2, 24, 25, 26, 27, 28, 29)


def base() -> TrainConfig:
    """`third_light` on two cards for what a lease of half an hour leaves. It was given the scans of
    `ycb62` as shards."""
    before = replace(third_light(), budget=Budget(seconds=1423), commit_every_s=115)
    return for_two_ranks(before, "base")


def base_further() -> TrainConfig:
    """`base_longer` on two cards for as long as `base` had: a second stage of it. Today's `trunk`
    is this as its cooldown began; it started from the one before."""
    return for_two_ranks(_longer_by_a_lease(), "base_further")


def base_cooled() -> TrainConfig:
    """`trunk` cooled from its warm-up on, on one card for as long as `base` had two: about as many
    tokens as the second half of `base`."""
    before = _longer_by_a_lease()
    rate = replace(before.rate, cooldown=1.0)
    return replace(before, name="base_cooled", rate=rate, seed=5)


def _longer_by_a_lease() -> TrainConfig:
    """`base_longer` for as long as `base` had."""
    first = base()
    return replace(base_longer(), budget=first.budget, commit_every_s=first.commit_every_s)


def for_two_ranks(config: TrainConfig, name: str) -> TrainConfig:
    """Twice the scenes a step and in the pool: each of two ranks does what one does alone."""
    data = config.data
    shapes = tuple(replace(shape, scenes=2 * shape.scenes) for shape in data.shapes)
    data = replace(data, shapes=shapes, pool_scenes=2 * data.pool_scenes)
    return replace(config, name=name, data=data)


def small() -> TrainConfig:
    """Three of the ten triples of `trunk` (attention in an image, a memory or a window over time,
    feed-forward), gone on with and cooled: under 8 MiB, a shorter query.

    Which: `campaign.drop_blocks --length 3` of the trunk of the log's entry 27.
    """
    before = base_longer()
    return replace(
        before,
        name="small",
        model=replace(before.model, stack="WTFWTFWSF"),
        start_layers=_LAYERS_OF_SMALL,
        rate=replace(before.rate, cooldown=0.8),
    )
