"""`attend` and `base_longer` are a pair: one change, and both begin as `base` ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.weight_files import load_model
from everview.pipeline.training.parameter_groups import split_parameters
from everview.pipeline.training.train_run import first_model
from everview.workflows.recipes.published import attend, base_longer
from everview.workflows.recipes.registry import find_recipe


def test_they_differ_in_the_attention_across_views_alone() -> None:
    one, other = attend(), base_longer()
    assert find_recipe("attend") is attend
    assert one.model == replace(other.model, cross_view=3)
    assert replace(one, name=other.name, model=other.model) == other


@pytest.mark.parametrize("recipe", [attend, base_longer])
def test_they_begin_as_base_ended(recipe) -> None:
    before = load_model("base")
    model = first_model(recipe())
    values = model.state_dict()
    for name, value in before.state_dict().items():
        assert torch.equal(values[name], value), name
    new = {name.partition(".")[0] for name in values} - {
        name.partition(".")[0] for name in before.state_dict()
    }
    assert new == ({"cross_view"} if recipe is attend else set())


def test_muon_takes_the_matrices_of_the_new_layers() -> None:
    with torch.device("meta"):
        groups = split_parameters(first_model(replace(attend(), start_from=None)))
    ours = [part for part in groups.hidden if part.name.startswith("cross_view.")]
    assert {part.shape for part in ours} == {(256, 256)}
    assert len(ours) == 3 * 4  # query, key, value, out
