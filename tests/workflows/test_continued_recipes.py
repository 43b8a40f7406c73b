"""Recipes that go on with `base` begin as it ended, and differ from their control in one thing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.schedule import SET
from everview.models.weight_files import load_model
from everview.pipeline.training.parameter_groups import split_parameters
from everview.pipeline.training.train_run import first_model
from everview.workflows.recipes import find_recipe
from everview.workflows.recipes.continued import (
    CONTINUED,
    attend,
    base_longer,
    fine_sweep,
    robust_far_sweep,
)
from tests.models.scenes import episode

PAIRS = (0.0, 2.5)
BIT_FOR_BIT = [r for r in CONTINUED if r not in (robust_far_sweep, fine_sweep)]
"""a farther end and the fine sweep's first opinion move depths at once"""


@pytest.mark.parametrize(
    ("name", "cross_view", "pair_powers", "far_shared_by"),
    [
        ("attend", 3, (), 0.75),
        ("robust_sweep", 0, PAIRS, 0.75),
        ("robust_far_sweep", 0, PAIRS, 0.5),
        ("attend_robust", 3, PAIRS, 0.75),
    ],
)
def test_they_differ_from_their_control_in_the_model_alone(
    name, cross_view, pair_powers, far_shared_by
) -> None:
    one, other = find_recipe(name)(), base_longer()
    assert other.model.bank is not None
    bank = replace(other.model.bank, pair_powers=pair_powers, far_shared_by=far_shared_by)
    assert one.model == replace(other.model, cross_view=cross_view, bank=bank)
    assert replace(one, name=other.name, model=other.model) == other
    assert (one.start_from, one.budget.seconds, one.seed) == ("base", 600, 2)


def test_the_fine_sweep_differs_from_its_control_in_its_offsets_alone() -> None:
    one, other = fine_sweep(), base_longer()
    assert one.model.bank is not None
    assert one.model.bank.fine_offsets
    model = replace(one.model, bank=replace(one.model.bank, fine_offsets=()))
    assert replace(one, name=other.name, model=model) == other


@pytest.mark.parametrize("recipe", BIT_FOR_BIT)
@torch.no_grad()
def test_they_begin_with_the_weights_and_the_pictures_of_base(recipe) -> None:
    base, longer = load_model("base"), first_model(recipe()).eval()
    values = longer.state_dict()
    for name, value in base.state_dict().items():
        assert torch.equal(values[name], value), name
    seen = episode(chunks=(4,), batch=1, targets=1, size=(16, 24))
    before, after = base.forward(seen, SET)[1].targets, longer.forward(seen, SET)[1].targets
    for name in ("rgb", "log_depth", "log_scale"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name


def test_muon_takes_the_matrices_of_the_attention() -> None:
    with torch.device("meta"):
        groups = split_parameters(first_model(replace(attend(), start_from=None)))
    ours = [part for part in groups.hidden if part.name.startswith("cross_view.")]
    assert {part.shape for part in ours} == {(256, 256)}
    assert len(ours) == 3 * 4  # query, key, value, out


def test_both_changes_together_hold_the_parts_of_each() -> None:
    with torch.device("meta"):
        names = {
            recipe: set(first_model(replace(recipe(), start_from=None)).state_dict())
            for recipe in CONTINUED
        }
    base, attended, robust, far, both, fine = names.values()
    assert attended | robust == both
    assert robust == far
    assert base < attended
    assert base < robust
    assert base < fine
