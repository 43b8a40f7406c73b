"""The window's ablations are paired: one change, equally many tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.scene_model import SceneModel
from everview.workflows.recipes.ablations import (
    ABLATIONS,
    ablation_base,
    window_for_memory,
    window_over_time,
)


def parameters(recipe) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in SceneModel(recipe().model).parameters())


@pytest.mark.parametrize("recipe", [window_over_time, window_for_memory])
def test_they_change_nothing_but_the_stack(recipe) -> None:
    base, windowed = ablation_base(), recipe()
    assert recipe in ABLATIONS
    assert windowed.model == replace(base.model, stack=windowed.model.stack)
    assert replace(windowed, name=base.name, model=base.model) == base
    assert len(windowed.model.stack) == len(base.model.stack)
    assert base.evaluation.streams == (16,)


def test_a_window_in_place_of_attention_costs_gates_alone() -> None:
    gates = window_over_time().model.stack.count("S") * 4 * (256 + 1)
    assert parameters(window_over_time) == parameters(ablation_base) + gates
    assert parameters(window_for_memory) < parameters(ablation_base)
