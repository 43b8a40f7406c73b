"""The window's ablations are paired: one change, equally many parameters and tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.scene_model import SceneModel
from everview.workflows.recipes.ablations import (
    ABLATIONS,
    ablation_base,
    window_of_whole_frames,
    window_over_time,
)


def parameters(recipe) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in SceneModel(recipe().model).parameters())


@pytest.mark.parametrize("recipe", [window_over_time, window_of_whole_frames])
def test_a_window_costs_gates_and_changes_nothing_but_the_model(recipe) -> None:
    base, windowed = ablation_base(), recipe()
    assert recipe in ABLATIONS
    assert replace(windowed, name=base.name, model=base.model) == base
    assert base.evaluation.streams == (16,)
    gates = 5 * 4 * (256 + 1)
    assert parameters(recipe) == parameters(ablation_base) + gates


def test_the_window_of_whole_frames_holds_every_token() -> None:
    config = window_of_whole_frames()
    side = config.data.size // config.model.patch
    assert config.model.window.cells == side
