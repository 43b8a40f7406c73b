"""What the second start takes over from single changes, and that it learns at both sizes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import torch

from everview.models.scene_model import SceneModel
from everview.pipeline.training.config import DataConfig
from everview.pipeline.training.learning_rate import Budget, constant
from everview.pipeline.training.loop import train
from everview.pipeline.training.ranks import Ranks
from everview.pipeline.training.scene_pool import ScenePool
from everview.workflows.campaign.compile_ahead import one_shape_each
from everview.workflows.recipes.ablations import few_targets, window_for_memory
from everview.workflows.recipes.first_light import fine_sweep, tiny
from everview.workflows.recipes.lact import beside_lact
from everview.workflows.recipes.published import base
from everview.workflows.recipes.second_light import (
    second_light,
    third_light,
    wide_pixels,
)


def test_it_starts_from_nothing_with_the_time_and_worlds_of_beside_lact() -> None:
    ours, before = second_light(), beside_lact()
    assert ours.start_from is None
    assert ours.budget == before.budget
    assert ours.data.worlds == before.data.worlds
    assert ours.model.bank == before.model.bank
    assert ours.loss.at(1.0)["perceptual"] == fine_sweep().loss.at(1.0)["perceptual"]
    assert ours.data.stored_share.last == fine_sweep().data.stored_share.last


def test_both_sizes_have_equally_many_tokens_and_scenes_of_the_later_are_seen_as_often() -> None:
    early, late = second_light().data.shapes
    assert (early.start, early.end, late.end) == (0.0, late.start, 1.0)
    data, before = second_light().data, beside_lact().data
    assert early.scenes * early.size**2 == late.scenes * data.size**2
    (one,) = few_targets().data.shapes
    assert replace(late, start=0.0) == one

    def scenes_made_a_step(chosen: DataConfig) -> float:
        interval = ScenePool.interval.fget(SimpleNamespace(config=chosen))  # without a pool's GiB
        return chosen.refresh_scenes * chosen.parts / interval

    assert scenes_made_a_step(data) < 1.3 * scenes_made_a_step(before)


def test_every_second_memory_is_a_window_and_charbonnier_is_there_from_the_start() -> None:
    assert second_light().model.stack == "WTFWSF" * 5
    assert len(second_light().model.stack) == len(beside_lact().model.stack)
    assert set(window_for_memory().model.stack) == set(second_light().model.stack)
    assert second_light().loss.at(0.0)["charbonnier"] == beside_lact().loss.at(1.0)["charbonnier"]


def test_wide_pixels_has_fewer_blocks_and_more_at_pixels() -> None:
    wide, before = wide_pixels(), second_light()
    assert replace(wide, name=before.name, model=before.model) == before
    with torch.device("meta"):
        models = SceneModel(wide.model), SceneModel(before.model)

    def count(model, *parts) -> int:
        named = model.named_parameters()
        return sum(p.numel() for name, p in named if name.split(".")[0] in parts)

    assert count(models[0], "layers") < 0.7 * count(models[1], "layers")
    assert count(models[0], "fine", "refine") > 2 * count(models[1], "fine", "refine")


def test_it_goes_from_the_small_size_to_the_large_one_with_its_windows(tmp_path) -> None:
    ours = second_light()
    early, late = ours.data.shapes
    small = replace(ours.model, stack="WTFWSF", dim=64, attention_head_dim=32)
    shapes = (
        replace(early, scenes=2, inputs=4, targets=2, chunks=(1, 4), size=16, end=0.5),
        replace(late, scenes=1, inputs=4, targets=2, chunks=(1, 4), start=0.5),
    )
    config = replace(
        ours,
        model=small,
        data=replace(tiny().data, shapes=shapes),
        loss=replace(ours.loss, perceptual=constant(0.0)),
        evaluation=replace(tiny().evaluation, streams=()),
        budget=Budget(steps=6),
        report_every=1,
        commit_every_s=1e9,
    )
    train(config, tmp_path / "run")

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if "picture" in line]
    tokens = [0, *(line["tokens"] for line in steps)]
    made = [after - before for before, after in pairwise(tokens)]
    # two scenes of six views of four patches; one of six of sixteen
    assert made == [2 * 6 * 4] * 3 + [6 * 16] * 3
    assert all(math.isfinite(line["picture"]) for line in steps)


def test_third_light_has_the_blocks_of_one_and_the_pixels_of_the_other() -> None:
    ours, deep, wide = third_light(), second_light(), wide_pixels()
    bank = replace(wide.model.bank, compared=8)
    assert ours.model == replace(wide.model, stack=deep.model.stack, bank=bank)
    assert [shape.inputs for shape in ours.data.shapes] == [8, 8], "all of them are compared"
    assert {ours.data.memory_share.value(progress) for progress in (0.0, 0.5, 1.0)} == {
        deep.data.memory_share.value(1.0)
    }
    same = replace(ours, name=wide.name, model=wide.model, data=wide.data)
    assert same == wide


def test_a_rank_of_base_does_what_third_light_does_alone() -> None:
    whole, alone = base(), third_light()
    Ranks(0, 2).check(whole.data.parts)
    share = Ranks(0, 2).share
    assert share.size(whole.data.pool_scenes) == alone.data.pool_scenes
    assert [share.size(shape.scenes) for shape in whole.data.shapes] == [
        shape.scenes for shape in alone.data.shapes
    ]
    data = replace(whole.data, shapes=alone.data.shapes, pool_scenes=alone.data.pool_scenes)
    operated = {"budget": alone.budget, "commit_every_s": alone.commit_every_s}
    assert replace(whole, name=alone.name, data=data, **operated) == alone
    assert one_shape_each(whole, 2) == [
        replace(part, name=whole.name, budget=whole.budget, commit_every_s=whole.commit_every_s)
        for part in one_shape_each(alone)
    ]
