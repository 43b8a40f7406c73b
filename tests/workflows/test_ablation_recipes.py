"""Ablations are paired: one change each, and what is measured stays comparable."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL, SHIFTED
from everview.pipeline.training.config import EvaluationConfig
from everview.pipeline.training.held_out import HeldOut
from everview.pipeline.training.mixing import golden_choice
from everview.workflows.recipes.ablations import (
    ABLATIONS,
    ablation_base,
    no_rooms,
    shifted,
    window_over_time,
)

ALONE = [recipe for recipe in ABLATIONS if recipe not in (ablation_base, shifted)]


@pytest.mark.parametrize("recipe", ALONE)
def test_each_differs_from_the_base_in_one_part(recipe) -> None:
    one, base = recipe(), ablation_base()
    parts = [f.name for f in fields(base) if getattr(one, f.name) != getattr(base, f.name)]
    assert one.name == recipe.__name__
    assert len(set(parts) - {"name"}) == 1


def test_shifted_is_measured_as_it_is_trained() -> None:
    one, window = shifted(), window_over_time()
    assert one.model == window.model
    assert replace(one.data, schedules=window.data.schedules) == window.data
    schedules = {schedule for _, schedule, _ in HeldOut({}, one.evaluation).schedules()[1:]}
    assert schedules == {SHIFTED}
    others = {schedule for _, schedule, _ in HeldOut({}, EvaluationConfig()).schedules()[1:]}
    assert others == {CHUNK_CAUSAL}


def test_without_rooms_none_is_drawn_but_all_are_measured() -> None:
    worlds = no_rooms().data.worlds
    assert [w.name for w in worlds] == [w.name for w in ablation_base().data.worlds]
    drawn = {worlds[golden_choice(b, [w.share for w in worlds])].name for b in range(1000)}
    assert drawn == {"orbit", "tabletop"}


def test_every_ablation_can_be_built() -> None:
    with torch.device("meta"):
        for recipe in ABLATIONS:
            assert next(SceneModel(recipe().model).parameters()).is_meta
