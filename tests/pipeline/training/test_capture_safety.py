"""A training step can be recorded as a CUDA graph: it never waits for the device, nor copies from
the host. Told without a GPU, on tensors that have shapes and devices but no values.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from everview.models import config as models
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL, SCHEDULES
from everview.pipeline.training.config import LossConfig, OptimiserConfig
from everview.pipeline.training.losses import episode_loss
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.step import Objective, training_step
from tests.models.crossings import Crossings, pretend_gpu
from tests.pipeline.training.flat_episode import plane_episode

CONFIG = replace(models.tiny(), stack="WTF")
FINE = replace(models.tiny().bank, fine_offsets=(-2.0, -0.5, 0.5, 2.0))
CASES = {
    **{name: (CONFIG, schedule) for name, schedule in SCHEDULES.items()},
    "writes all": (replace(CONFIG, memory_writes=("w0", "w1", "w2")), CHUNK_CAUSAL),
    "no bank": (replace(CONFIG, bank=None), CHUNK_CAUSAL),
    "attention across views": (replace(CONFIG, cross_view=2), CHUNK_CAUSAL),
    "fine sweep": (replace(CONFIG, bank=FINE), CHUNK_CAUSAL),
}
WEIGHTS = LossConfig().at(1.0)


def scalars(device):
    """What a captured step gives: weights and factor on the device."""
    return {name: torch.zeros((), device=device) for name in WEIGHTS}, torch.ones((), device=device)


@pytest.mark.parametrize(("config", "schedule"), CASES.values(), ids=CASES)
def test_forward_loss_and_update_stay_on_a_gpu(config, schedule, monkeypatch):
    pretend_gpu(monkeypatch)
    with FakeTensorMode():
        with torch.device("cuda"):
            model = SceneModel(config).train()
        optimiser = Optimiser(model, OptimiserConfig(average_decay=0.99))
        episode = plane_episode(0, 2, "cuda")
        weights, factor = scalars("cuda")
        with Crossings("cuda") as crossings:
            _, outputs = model.forward(episode, schedule)
            episode_loss(outputs, episode, weights)
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimiser.step(factor)
    assert crossings.found == []


@pytest.mark.parametrize(("config", "schedule"), CASES.values(), ids=CASES)
def test_the_whole_step_needs_no_values(config, schedule, monkeypatch):
    """The backward pass too, which tensors of a GPU that isn't there can't do."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    model = SceneModel(config).to("meta").train()
    optimiser = Optimiser(model, OptimiserConfig(average_decay=0.99))
    episode = plane_episode(0, 2, "meta")
    weights, factor = scalars("meta")
    with Crossings("meta") as crossings:
        training_step(Objective(model), optimiser, episode, schedule, weights, factor)
    assert crossings.found == []


def test_a_wait_and_a_copy_would_be_noticed():
    with FakeTensorMode(), Crossings("cuda") as crossings:
        there = torch.ones(2, device="cuda")
        with pytest.raises(DataDependentOutputException):
            bool(there.sum() > 1)
        torch.tensor([1.0, 2.0], device="cuda")
        there.cpu()
    assert len(crossings.found) == 2
    assert all(__file__ in place for place in crossings.found)
