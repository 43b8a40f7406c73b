"""The captured step does what the plain step does, with nothing frozen in that should change."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from everview.models import config as models
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL, SET
from everview.pipeline.training.captured import EAGER_USES, CapturedStep
from everview.pipeline.training.config import OptimiserConfig
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.step import Objective, training_step
from tests.pipeline.training.flat_episode import plane_episode

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
CONFIG = replace(models.tiny(), stack="WTF")
EARLY = ("picture", "direct", "depth", "confidence")
LATE = (*EARLY, "charbonnier")


def new_model(compiled=False):
    torch.manual_seed(0)
    model = SceneModel(CONFIG).cuda().train()
    if compiled:
        model.compile_blocks(dynamic=False)
    return model


def steps_of_a_run(count):
    """Episode, schedule, weights and factor of every step: six forms, all numbers changing."""
    for step in range(count):
        schedule = SET if step % 4 == 3 else CHUNK_CAUSAL
        names = EARLY if step < count // 2 else LATE
        weights = {name: 1 / (1 + i + step % 3) for i, name in enumerate(names)}
        yield plane_episode(step, 1 + step % 2, "cuda"), schedule, weights, 1 / (1 + step)


def flat(*models):
    """All weights in a row."""
    return torch.cat([p.detach().flatten() for model in models for p in model.parameters()])


def run(model, captured):
    """Losses of every step, and the weights after the last, with their running means."""
    said = []
    optimiser = Optimiser(model, OptimiserConfig(muon_rate=1e-3, average_decay=0.95))
    update = partial(training_step, Objective(model), optimiser)
    if captured:
        update = CapturedStep(update, model, said.append)
    results = [update(*step) for step in steps_of_a_run(48)]
    assert said == []
    losses = [{name: value.item() for name, value in r.losses.items()} for r in results]
    assert all(r.accepted.item() == 1 and r.tokens == results[0].tokens for r in results)
    return losses, flat(model, optimiser.result())


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_captured_and_plain_runs_are_as_alike_as_two_plain_runs(compiled):
    start = flat(new_model(), new_model())
    (plain, once), (_, again) = (run(new_model(compiled), False) for _ in range(2))
    captured, replayed = run(new_model(compiled), True)
    for one, other in zip(plain, captured, strict=True):
        assert one == pytest.approx(other, rel=0.05, abs=1e-3)
    noise, moved = (once - again).norm(), (once - start).norm()
    assert (once - replayed).norm() <= 3 * noise + 0.02 * moved


def recorded(model, optimiser, episode, weights):
    """A step whose form has its graph."""
    step = CapturedStep(partial(training_step, Objective(model), optimiser), model, pytest.fail)
    for _ in range(EAGER_USES + 1):
        step(episode, CHUNK_CAUSAL, weights, 1.0)
    assert all(form.replay is not None for form in step._forms.values())
    return step


def test_rate_and_weights_are_those_of_each_step():
    """A rate of 0 moves nothing, bit for bit, and the loss is the sum with this step's weights."""
    model = new_model()
    optimiser = Optimiser(model, OptimiserConfig(skip_above=1e9))
    episode = plane_episode(0, 2, "cuda")
    step = recorded(model, optimiser, episode, dict.fromkeys(EARLY, 1.0))
    before = copy.deepcopy(model.state_dict())
    for weight in (0.5, 4.0):
        weights = {name: weight * (1 + i) for i, name in enumerate(EARLY)}
        losses = step(episode, CHUNK_CAUSAL, weights, 0.0).losses
        expected = sum(weight * losses[name].item() for name, weight in weights.items())
        assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    step(episode, CHUNK_CAUSAL, dict.fromkeys(EARLY, 1.0), 1.0)
    assert any(not torch.equal(v, before[name]) for name, v in model.state_dict().items())


def test_a_result_outlives_the_next_replay_and_weights_get_a_new_name():
    model = new_model()
    optimiser = Optimiser(model, OptimiserConfig())
    step = recorded(model, optimiser, plane_episode(0, 2, "cuda"), {"picture": 1.0})
    name = model.fingerprint
    first = step(plane_episode(1, 2, "cuda"), CHUNK_CAUSAL, {"picture": 1.0}, 1.0)
    value = first.losses["picture"].item()
    second = step(plane_episode(2, 2, "cuda"), CHUNK_CAUSAL, {"picture": 1.0}, 1.0)
    assert first.losses["picture"].item() == value != second.losses["picture"].item()
    assert model.fingerprint != name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_step_that_cannot_be_captured_goes_on_as_it_was():
    """A host wait inside the step: one line says so, and every update is made exactly once."""

    def waiting(model, optimiser, episode, schedule, weights, rate_factor):
        result = training_step(Objective(model), optimiser, episode, schedule, weights, rate_factor)
        assert result.losses["loss"].item() > 0
        return result

    said, steps = [], EAGER_USES + 3
    model = new_model()
    optimiser = Optimiser(model, OptimiserConfig())
    step = CapturedStep(partial(waiting, model, optimiser), model, said.append)
    for seed in range(steps):
        result = step(plane_episode(seed, 2, "cuda"), CHUNK_CAUSAL, {"picture": 1.0}, 1.0)
    assert torch.isfinite(result.losses["loss"])
    assert optimiser.state()["accepted_steps"].item() == steps
    assert len(said) == 1
    assert "can't be captured" in said[0]
    assert __file__ in said[0]
