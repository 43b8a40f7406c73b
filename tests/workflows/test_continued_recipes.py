"""Recipes that go on with `trunk` begin as it ended, and differ from their control in one thing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everview.models.schedule import SET
from everview.models.weight_files import load_model, weights_folder
from everview.pipeline.training.parameter_groups import split_parameters
from everview.pipeline.training.train_run import first_model
from everview.workflows import campaign
from everview.workflows.recipes import find_recipe
from everview.workflows.recipes.continued import (
    CONTINUED,
    attend,
    base_longer,
    memory_asked,
    robust_far_sweep,
    two_sizes,
    warped,
)
from everview.workflows.recipes.first_light import fine_sweep, first_light, six_compared
from everview.workflows.recipes.published import base, base_cooled, base_further, small
from everview.workflows.recipes.second_light import third_light
from tests.models.scenes import episode

CURVES = Path(campaign.__file__).parent / "curves"
PAIRS = (0.0, 2.5)
BIT_FOR_BIT = [recipe for recipe in CONTINUED if recipe is not robust_far_sweep]
"""a farther end moves depths at once"""


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
    assert (one.start_from, one.budget.seconds, one.seed) == ("trunk", 600, 4)


def test_a_second_stage_is_base_longer_on_two_cards() -> None:
    one, other = base_further(), base_longer()
    assert one.model == load_model("trunk").config
    assert [shape.scenes for shape in one.data.shapes] == [2 * other.data.shapes[0].scenes]
    data = replace(one.data, shapes=other.data.shapes, pool_scenes=other.data.pool_scenes)
    operated = {"budget": other.budget, "commit_every_s": other.commit_every_s}
    assert replace(one, name=other.name, data=data, **operated) == other
    assert (one.budget, one.commit_every_s) == (base().budget, base().commit_every_s)


def test_a_second_stage_cooled_throughout_is_base_longer_for_as_long_as_base_had() -> None:
    one, other = base_cooled(), base_longer()
    operated = {"budget": base().budget, "commit_every_s": base().commit_every_s}
    rate = replace(other.rate, cooldown=1.0)
    assert one == replace(other, name="base_cooled", rate=rate, seed=5, **operated)
    assert one.start_from == "trunk"


def test_a_stage_draws_what_the_end_of_base_drew() -> None:
    one, before = base_longer(), third_light()
    assert one.data.shapes == (replace(before.data.shapes[-1], start=0.0),)
    for share in ("stored_share", "memory_share"):
        ours, theirs = getattr(one.data, share), getattr(before.data, share)
        assert {ours.value(0.0), ours.value(1.0)} == {theirs.value(1.0)}
    assert one.data.reuse == first_light().data.reuse, "of the only shape there is"
    assert one.loss.at(1.0) == before.loss.at(1.0)
    assert one.rate.warm_up_steps == 150
    # LPIPS joins as the cooldown begins
    begins = 1.0 - one.rate.cooldown
    assert not one.loss.at(begins).get("perceptual")
    assert one.loss.at(begins + 0.1) == one.loss.at(1.0)


def test_warped_differs_from_its_control_in_the_frames_that_tokens_see() -> None:
    one, other = warped(), base_longer()
    assert one.model.bank is not None
    assert one.model.bank.warped == 4
    assert replace(one.model, bank=replace(one.model.bank, warped=0)) == other.model
    assert replace(one, name=other.name, model=other.model) == other


def test_the_memory_is_asked_more_of_the_same_targets() -> None:
    one, other = memory_asked(), base_longer()
    shares = (recipe.data.memory_share.value(0.5) for recipe in (one, other))
    assert tuple(shares) == (0.6, 0.25)
    data = replace(one.data, memory_share=other.data.memory_share)
    assert replace(one, name=other.name, data=data) == other


def test_the_fine_sweep_differs_from_what_it_goes_on_with_in_its_offsets_alone() -> None:
    one, other = fine_sweep(), six_compared()
    assert one.model.bank is not None
    assert one.model.bank.fine_offsets
    model = replace(one.model, bank=replace(one.model.bank, fine_offsets=()))
    assert model == other.model
    assert one.data == other.data


@pytest.mark.parametrize(("name", "recipe"), [("base", base), ("trunk", base)])
def test_published_weights_are_of_their_recipe_s_model(name, recipe) -> None:
    assert load_model(name).config == recipe().model


@pytest.mark.parametrize(("name", "limit_mib"), [("small", 8), ("base", 32), ("trunk", 32)])
def test_published_weights_are_as_small_as_was_promised(name, limit_mib) -> None:
    files = weights_folder(name).iterdir()
    assert sum(file.stat().st_size for file in files if file.is_file()) <= limit_mib * 2**20


@torch.no_grad()
def test_small_begins_with_the_blocks_of_trunk_that_it_names() -> None:
    trunk, begun = load_model("trunk"), first_model(small())
    assert begun.config.stack == "WTFWTFWSF"
    found = json.loads((CURVES / "2026-11-30_drop_blocks.json").read_text())
    assert list(small().start_layers) == found["layers"]
    assert small().rate.is_cooling(0.21), "most of it"
    for after, before in enumerate(small().start_layers):
        for one, other in zip(
            begun.layers[after].parameters(), trunk.layers[before].parameters(), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("recipe", BIT_FOR_BIT)
@torch.no_grad()
def test_they_begin_with_the_weights_and_the_pictures_of_trunk(recipe) -> None:
    trunk, longer = load_model("trunk"), first_model(recipe()).eval()
    values = longer.state_dict()
    for name, value in trunk.state_dict().items():
        assert torch.equal(values[name], value), name
    seen = episode(chunks=(4,), batch=1, targets=1, size=(16, 24))
    before, after = trunk.forward(seen, SET)[1].targets, longer.forward(seen, SET)[1].targets
    for name in ("rgb", "log_depth", "log_scale"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name


def test_a_step_at_256_px_sees_as_many_pixels_as_one_at_128() -> None:
    data = two_sizes().data
    small_views, large_views = data.shapes
    assert (data.side(small_views), data.side(large_views)) == (128, 256)
    assert small_views.scenes * 128**2 == large_views.scenes * 256**2
    one, control = two_sizes(), base_longer()
    assert replace(one, name=control.name, data=control.data, evaluation=control.evaluation) == (
        control
    )
    # judged on the same held-out scenes
    assert replace(one.evaluation, size=None) == control.evaluation
    assert one.evaluation.size == control.data.size


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
    base, attended, robust, far, both, warped_too, asked, sizes = names.values()
    assert sizes == asked == base
    assert attended | robust == both
    assert robust == far
    assert base < attended
    assert base < robust
    assert {name.partition(".")[0] for name in warped_too - base} == {"warped"}
