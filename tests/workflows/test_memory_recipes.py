"""The memory first, the bank after it: as long together as what they are compared with."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import pytest
import torch

from everview.models.schedule import SET
from everview.models.weight_files import load_model, save_weights
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.train_run import first_model
from everview.workflows.recipes.ablations import bank_off
from everview.workflows.recipes.lact import lact
from everview.workflows.recipes.memory import ALONE, memory_first, memory_then_bank
from tests.models.scenes import episode

CHANGED = {
    "alone_writes_all_three": {"model.memory_writes"},
    "alone_step_one": {"model.step"},
    "alone_wide": {"model.dim"},
    "alone_deep": {"model.stack"},
    "alone_no_foot_code": {"model.foot_code"},
    "alone_single_chunk": {"data.shapes"},
    "alone_adamw": {"optimiser.hidden", "optimiser.adamw_rate", "optimiser.weight_decay"},
    "alone_long_cooldown": {"rate.cooldown"},
    "alone_half_rate": {"optimiser.muon_rate"},
    "alone_no_depth": {"loss.depth", "loss.input_depth"},
}
"""of `bank_off`, by each"""


def values(config: TrainConfig) -> dict[str, object]:
    """Of a recipe, and of its parts, by name."""
    found: dict[str, object] = {}
    for part in fields(config):
        value = getattr(config, part.name)
        if is_dataclass(value):
            found |= {f"{part.name}.{f.name}": getattr(value, f.name) for f in fields(value)}
        else:
            found[part.name] = value
    return found


@pytest.mark.parametrize("recipe", ALONE)
def test_each_differs_from_the_memory_alone_in_what_it_is_named_for(recipe) -> None:
    one, base = values(recipe()), values(bank_off())
    assert one.pop("name") == recipe.__name__
    assert {name for name in one if one[name] != base[name]} == CHANGED[recipe.__name__]


def test_both_legs_together_have_the_time_and_the_scenes_of_the_published_formulation() -> None:
    legs, published = (memory_first(), memory_then_bank()), lact()
    assert [leg.start_from for leg in legs] == [None, "memory_first"]
    seconds = [leg.budget.seconds or 0.0 for leg in legs]
    assert sum(seconds) == published.budget.seconds
    for leg in legs:
        (shape,), (other,) = leg.data.shapes, published.data.shapes
        assert replace(shape, chunks=other.chunks) == other
        same = replace(published.data, shapes=leg.data.shapes, memory_share=leg.data.memory_share)
        assert replace(leg.data, stored_share=same.stored_share) == same
    for second in range(0, 1200, 50):
        leg = int(second >= seconds[0])
        share = legs[leg].data.stored_share.value((second - leg * seconds[0]) / seconds[leg])
        expected = published.data.stored_share.value(second / sum(seconds))
        assert share == pytest.approx(expected, abs=1e-9)


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
    reloaded = load_model(str(tmp_path)).eval()  # what 16 bits leave of it
    found = second.forward(without, SET)[1].targets
    expected = reloaded.forward(seen, SET)[1].targets
    assert torch.equal(found.rgb, expected.rgb)
    assert torch.equal(found.log_depth, expected.log_depth)
