"""Configurations: complete, frozen, the same data in code and files."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from everview.models.config import (
    BankConfig,
    ModelConfig,
    base15m,
    base33m,
    base312m,
    config_from_dict,
    config_to_dict,
    tiny,
)
from everview.models.elastic import (
    Elastic,
    ElasticWeightConsolidation,
    FixedAnchor,
    MemoryAwareSynapses,
    StreamingAnchor,
    StreamingEmaAnchor,
    SynapticIntelligence,
)
from everview.models.layers import LETTERS, build_stack
from everview.models.scene_model import SceneModel
from everview.models.steps import ConstantStep, InverseSqrtStep

CONFIGS = [
    tiny(),
    base15m(),
    base33m(),
    base312m(),
    ModelConfig(bank=None, step=ConstantStep(0.5), memory_writes=("w0", "w2")),
    ModelConfig(elastic=Elastic(MemoryAwareSynapses(), FixedAnchor(), pull=0.1)),
    ModelConfig(elastic=Elastic(ElasticWeightConsolidation(), StreamingEmaAnchor(0.9), decay=0.2)),
    ModelConfig(elastic=Elastic(SynapticIntelligence(), StreamingAnchor())),
    ModelConfig(step=InverseSqrtStep(0.5), bank=BankConfig(refine_offsets=(0.0,))),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_a_configuration_survives_json_with_its_policies(config: ModelConfig) -> None:
    back = config_from_dict(json.loads(json.dumps(config_to_dict(config))))
    assert back == config
    assert repr(back) == repr(config)


def test_unknown_fields_and_policies_are_named() -> None:
    data = config_to_dict(tiny())
    with pytest.raises(ValueError, match="ModelConfig has no field 'depth'"):
        config_from_dict(data | {"depth": 3})
    with pytest.raises(ValueError, match="BankConfig has no field 'size'"):
        config_from_dict(data | {"bank": data["bank"] | {"size": 3}})
    with pytest.raises(ValueError, match="unknown policy 'system'"):
        config_from_dict(data | {"step": {"kind": "system"}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 100}, "dim 100 is not a multiple of attention_head_dim"),
        ({"memory_heads": 3}, "dim 256 is not a multiple of memory_heads 3"),
        ({"memory_writes": ()}, "some of w0, w1, w2"),
        ({"memory_writes": ("w3",)}, "some of w0, w1, w2"),
        ({"memory_optimiser": "adam"}, "muon or sgd"),
        ({"newton_schulz_steps": 0}, "for plain SGD say sgd"),
        ({"base_rate": 0.0}, "not positive"),
        ({"dim": 12, "attention_head_dim": 6}, "multiple of 4"),
        ({"bank": BankConfig(features=10, groups=4)}, "equal groups"),
    ],
    ids=str,
)
def test_what_no_model_can_be_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**change)


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny().dim = 3


def test_an_unknown_letter_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no layer for 'X'; known: W, T, F"):
        build_stack(ModelConfig(stack="WTX"))
    with pytest.raises(ValueError, match="the stack is empty"):
        build_stack(ModelConfig(stack=""))


def test_the_stack_is_what_its_letters_say() -> None:
    layers = build_stack(dataclasses.replace(tiny(), stack="FTW"))
    assert [type(layer) for layer in layers] == [LETTERS[letter] for letter in "FTW"]


def test_the_published_small_model_has_about_fifteen_million_parameters() -> None:
    count = sum(p.numel() for p in SceneModel(base15m()).parameters())
    assert 14e6 < count < 16.5e6


def test_the_published_size_has_312_million_parameters() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in SceneModel(base312m()).parameters())
    assert count == pytest.approx(312e6, rel=0.02)
