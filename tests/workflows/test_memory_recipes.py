"""The memory first, the bank after it: as long together as what they are compared with."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from everview.models.schedule import SET
from everview.models.weight_files import save_weights
from everview.pipeline.training.train_run import first_model
from everview.workflows.recipes.ablations import bank_off
from everview.workflows.recipes.lact import lact
from everview.workflows.recipes.memory import ALONE, memory_first, memory_then_bank
from tests.models.scenes import episode


@pytest.mark.parametrize("recipe", ALONE)
def test_each_differs_from_the_memory_alone_in_one_part(recipe) -> None:
    one, base = recipe(), bank_off()
    parts = [f.name for f in fields(base) if getattr(one, f.name) != getattr(base, f.name)]
    assert one.name == recipe.__name__
    assert len(set(parts) - {"name"}) == 1


def test_both_legs_together_have_the_time_and_the_scenes_of_the_published_formulation() -> None:
    legs, published = (memory_first(), memory_then_bank()), lact()
    assert sum(leg.budget.seconds or 0.0 for leg in legs) == published.budget.seconds
    for leg in legs:
        (shape,) = leg.data.shapes
        (other,) = published.data.shapes
        assert replace(shape, chunks=other.chunks) == other
        assert leg.data.worlds == published.data.worlds
        assert leg.start_from in (None, memory_first.__name__)


@torch.no_grad()
def test_the_second_leg_begins_with_the_memory_of_the_first(tmp_path) -> None:
    def narrow(config):
        model = replace(config.model, stack="WTF", dim=64, attention_head_dim=32)
        return replace(config, model=model)

    first = first_model(narrow(memory_first())).eval()
    save_weights(first, tmp_path, "card", bits=16)
    second = first_model(replace(narrow(memory_then_bank()), start_from=str(tmp_path))).eval()
    assert first.sweep is None
    assert second.fine is not None
    seen = replace(episode(chunks=(4,), batch=1, targets=2, size=(16, 24)), bank_mask=None)
    without = replace(seen, bank_mask=torch.zeros(1, 2, dtype=torch.bool))
    reloaded = first_model(
        replace(narrow(memory_first()), start_from=str(tmp_path))
    ).eval()  # what 16 bits leave of it
    found = second.forward(without, SET)[1].targets
    expected = reloaded.forward(seen, SET)[1].targets
    assert torch.equal(found.rgb, expected.rgb)
    assert torch.equal(found.log_depth, expected.log_depth)
