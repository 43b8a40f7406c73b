"""A run that starts from weights: what they hold is taken, what they came before is new."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights
from everview.pipeline.errors import UsageError
from everview.pipeline.training.train_run import first_model
from everview.workflows.recipes import find_recipe


def test_a_larger_model_takes_up_weights_and_one_without_a_place_for_them_says_so(tmp_path):
    config = find_recipe("tiny")()
    torch.manual_seed(5)
    saved = SceneModel(replace(config.model, memory_momentum=False))
    before = replace(config, start_from=str(save_weights(saved, tmp_path / "w", "", bits=32)))
    larger = replace(config.model, memory_momentum=True)
    begun = first_model(replace(before, model=larger)).state_dict()
    for name, value in saved.state_dict().items():
        assert torch.equal(begun[name], value), name
    new = begun.keys() - saved.state_dict().keys()
    assert new
    assert all("momentum" in name and begun[name].isfinite().all() for name in new)
    with pytest.raises(UsageError, match=r"holds .* no place"):
        first_model(replace(before, model=replace(config.model, bank=None)))
    with pytest.raises(UsageError, match=r"of shape .* no place"):
        first_model(replace(before, model=replace(config.model, dim=32)))


def test_a_shallower_model_starts_from_the_layers_that_are_named(tmp_path):
    config = find_recipe("tiny")()
    torch.manual_seed(5)
    saved = SceneModel(config.model)
    stack = config.model.stack
    begun = replace(
        config,
        model=replace(config.model, stack=stack[3:]),
        start_from=str(save_weights(saved, tmp_path / "w", "", bits=32)),
        start_layers=tuple(range(3, len(stack))),
    )
    values, whole = first_model(begun).state_dict(), saved.state_dict()
    for name in values:
        if name.startswith("layers."):
            _, place, rest = name.split(".", 2)
            assert torch.equal(values[name], whole[f"layers.{int(place) + 3}.{rest}"])
        else:
            assert torch.equal(values[name], whole[name])
    with pytest.raises(UsageError, match=r"layers \(0, 99\) of a stack of"):
        first_model(replace(begun, start_layers=(0, 99)))
    with pytest.raises(ValueError, match="of no weights: give start_from too"):
        replace(begun, start_from=None)


def test_held_out_views_that_are_no_whole_patches_are_refused():
    config = find_recipe("tiny")()
    with pytest.raises(ValueError, match="views of 36 px can't be cut"):
        replace(config, evaluation=replace(config.evaluation, size=36))
