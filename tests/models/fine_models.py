"""Models whose fine sweep says something, for the tests of what it is part of."""

from __future__ import annotations

from dataclasses import replace

import torch

from everview.models.config import BankConfig
from everview.models.scene_model import SceneModel
from tests.models.scenes import scene_model

OFFSETS = (-3.0, -1.0, -0.4, 0.0, 0.4, 1.0, 3.0)
FINE = {"fine_offsets": OFFSETS, "fine_features": 4, "fine_channels": 16, "fine_returned": 4}
PLAIN = BankConfig(hypotheses=8, features=8, groups=4, refine_channels=8, compared=3, sources=2)
BANK = replace(PLAIN, **FINE)


def fine_model(**changes) -> SceneModel:
    """A tiny model whose fine sweep changes depth, colour and the copy."""
    model = scene_model(**{"bank": BANK} | changes)
    torch.nn.init.normal_(model.fine.network.exit.weight, std=0.3)
    torch.nn.init.normal_(model.refine.finer.weight, std=0.3)
    torch.nn.init.normal_(model.fine.features.leave.weight, std=0.3)
    return model


def with_bank(model: SceneModel, bank: BankConfig) -> SceneModel:
    """The same weights, less what this bank goes without."""
    plain = SceneModel(replace(model.config, bank=bank)).eval()
    values = model.state_dict()
    plain.load_state_dict({name: values[name] for name in plain.state_dict()})
    return plain
