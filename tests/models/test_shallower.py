"""A model of some of another's layers: what is left is what it was, and in its order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.config import tiny
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.shallower import shallower
from tests.models.scenes import episode


def deep() -> SceneModel:
    torch.manual_seed(0)
    return SceneModel(replace(tiny(), stack="WTFWTFWTF")).eval()


@torch.no_grad()
def test_leaving_out_a_block_that_adds_nothing_changes_no_picture() -> None:
    model, seen = deep(), episode()
    for layer in model.layers[3:6]:
        for name, value in layer.named_parameters():
            if name in ("out.weight", "contract.weight"):
                value.zero_()
    before = model(seen, CHUNK_CAUSAL)[1].targets
    other = shallower(model, (0, 1, 2, 6, 7, 8))
    assert other.config == replace(model.config, stack="WTFWTF")
    after = other(seen, CHUNK_CAUSAL)[1].targets
    assert torch.equal(before.rgb, after.rgb)
    without_another = shallower(model, (0, 1, 2, 3, 4, 5))(seen, CHUNK_CAUSAL)[1].targets
    assert not torch.equal(before.rgb, without_another.rgb)


def test_what_is_left_is_a_copy_with_the_letters_of_its_places() -> None:
    model = deep()
    other = shallower(model, (0, 2, 4))
    assert other.config.stack == "WFT"
    assert torch.equal(other.layers[2].w1, model.layers[4].w1)
    with torch.no_grad():
        other.layers[2].w1.zero_()
    assert bool(model.layers[4].w1.any())


@pytest.mark.parametrize("places", [(), (1, 0), (0, 0), (0, 9), (-1, 0)])
def test_places_that_the_stack_lacks_or_that_do_not_rise_are_refused(places) -> None:
    with pytest.raises(ValueError, match="of a stack of 9: some of 0 to 8, rising"):
        shallower(deep(), places)
