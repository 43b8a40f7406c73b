"""A run continues as if it had never stopped, ends cleanly, and leaves weights that load."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace

import pytest
import torch

from everview.models.weight_files import load_model
from everview.pipeline.errors import InputRejected, UsageError
from everview.pipeline.training import train_run
from everview.pipeline.training.checkpoints import newest
from everview.pipeline.training.config import EpisodeShape
from everview.pipeline.training.held_out import measure
from everview.pipeline.training.learning_rate import Budget, RateSchedule
from everview.pipeline.training.loop import train
from everview.pipeline.training.reporting import CURVE, Curve
from everview.pipeline.training.train_run import CHECKPOINTS, plain, publish_trunk
from everview.workflows.recipes import RECIPES
from tests.pipeline.training.flat_scenes import plane_run, render_for_a_run

STEPS = 6
CONFIG = plane_run(STEPS)
STAGED = replace(
    CONFIG,
    data=replace(
        CONFIG.data,
        shapes=(
            EpisodeShape(4, 4, 2, (1, 2), end=0.5, size=8),
            EpisodeShape(2, 4, 2, (1, 2), start=0.5),
        ),
    ),
    optimiser=replace(CONFIG.optimiser, average_decay=0.9),
)
"""Three steps on many small views, three on few large ones, and the weights averaged."""


@pytest.fixture(autouse=True)
def planes(monkeypatch):
    """Scenes that cost nothing; everything else is the real thing."""
    monkeypatch.setattr(train_run, "render_scenes", render_for_a_run)


def last_commit(out):
    found = newest(out / CHECKPOINTS, pytest.fail)
    assert found is not None
    return found


def curve(out):
    timing = ("elapsed_s", "ms_per_step", "feed_s")
    lines = Curve.read(out / CURVE)
    return [{k: v for k, v in line.items() if k not in timing} for line in lines]


@pytest.mark.parametrize(
    ("config", "after"),
    [(CONFIG, 3), (STAGED, 2), (STAGED, 4)],
    ids=["one size", "two sizes, before the change", "two sizes, after it"],
)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(config, after, tmp_path):
    """SIGTERM after a step, then the same call: weights, their mean, optimiser, curve, measurement,
    and what is published."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    done = train(config, whole)

    sent: list[int] = []

    def stop(run):
        if run.step == after and not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = train(replace(config, commit_every_s=0), parted, after_commit=stop)
    assert stopped.signal == signal.SIGTERM
    assert stopped.weights is None
    assert last_commit(parted).step == after
    resumed = train(config, parted)
    assert resumed.weights is not None

    one, other = last_commit(whole), last_commit(parted)
    assert one.step == other.step == STEPS
    for file in one.tensors:
        for name, value in one.tensors[file].items():
            assert torch.equal(value, other.tensors[file][name]), f"{file} {name}"
    assert curve(whole) == curve(parted)
    for name in ("loss", "step", "tokens", "held_out_psnr"):
        assert done.metrics[name] == resumed.metrics[name]
    published = [load_model(result.weights).fingerprint for result in (done, resumed)]
    assert published[0] == published[1]


def test_what_is_measured_and_published_is_the_mean_of_the_weights_and_the_trunk_is_not(tmp_path):
    trunks, measured = [], []

    def look(run):
        trunks.append(load_model(publish_trunk(run, tmp_path / "trunk")))
        measured.append(measure(run.optimiser.result(), run.held_out))

    result = train(STAGED, tmp_path / "run", after_commit=look)
    tensors = last_commit(tmp_path / "run").tensors
    for name, value in load_model(result.weights).named_parameters():
        if "qkv" in name:  # moved by more than what storing them in few bits costs
            mean, now = tensors["optimiser"][f"average.{name}"], tensors["model"][name]
            trunk = trunks[-1].get_parameter(name)
            assert (value - mean).norm() < 0.5 * (value - now).norm()
            assert (trunk - now).norm() < 0.1 * (trunk - mean).norm()
    for name, psnr in measured[-1].items():
        assert result.metrics["held_out_psnr"][name] == pytest.approx(psnr, abs=1e-3)
    card = (result.weights / "card.md").read_text()
    assert "running mean of the weights at a decay of 0.9 a step" in card
    assert "0% to 50% of the run: 4 scenes of 4 inputs and 2 targets at 8 px" in card


def test_a_killed_run_repeats_the_steps_after_its_commit(tmp_path):
    """Lines of the curve beyond the checkpoint are dropped: they will be written again."""
    train(CONFIG, tmp_path)
    expected = curve(tmp_path)
    checkpoints = sorted((tmp_path / CHECKPOINTS).iterdir())
    assert len(checkpoints) == 1
    second = tmp_path / "second"

    class KilledError(Exception):
        pass

    def die(run):
        if run.step == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train(replace(CONFIG, commit_every_s=0), second, after_commit=die)
    newest_commit = max((second / CHECKPOINTS).iterdir())
    (newest_commit / "model.safetensors").write_bytes(b"torn")
    train(CONFIG, second)
    assert curve(second) == expected


def test_a_run_never_committed_starts_at_step_0_and_says_so(tmp_path, capsys):
    train(replace(CONFIG, budget=Budget(steps=1)), tmp_path)
    assert "starting at step 0" in capsys.readouterr().err


def test_commits_of_which_none_verifies_end_the_run(tmp_path):
    train(replace(CONFIG, budget=Budget(steps=1)), tmp_path)
    for path in (tmp_path / CHECKPOINTS).iterdir():
        (path / "optimiser.safetensors").unlink()
    with pytest.raises(InputRejected, match="no checkpoint"):
        train(replace(CONFIG, budget=Budget(steps=1)), tmp_path)


def test_another_configuration_is_not_continued(tmp_path):
    train(replace(CONFIG, budget=Budget(steps=1)), tmp_path)
    with pytest.raises(UsageError, match="rate"):
        train(replace(CONFIG, budget=Budget(steps=1), rate=RateSchedule(3)), tmp_path)


def test_a_budget_in_seconds_always_finishes_its_cooldown(tmp_path):
    result = train(replace(CONFIG, budget=Budget(seconds=1.5)), tmp_path)
    assert result.weights is not None
    rates = [line["rate"] for line in Curve.read(tmp_path / CURVE) if "rate" in line]
    assert rates[-1] == 0.0


def test_a_run_ends_at_a_given_time_with_its_cooldown_done(tmp_path):
    """The time counts from the first step on, and also for a run that began with another budget."""
    stopped = train(replace(CONFIG, budget=Budget(steps=1000)), tmp_path, attempt_s=0.3)
    assert stopped.weights is None
    until = time.time() + 3
    result = train(CONFIG, tmp_path, until=until)
    assert result.weights is not None
    assert result.metrics["step"] > stopped.metrics["step"]
    assert time.time() >= until
    rates = [line["rate"] for line in Curve.read(tmp_path / CURVE) if "rate" in line]
    assert rates[-1] == 0.0


def test_a_deadline_that_has_passed_still_leaves_weights(tmp_path):
    assert train(CONFIG, tmp_path, until=time.time() - 60).weights is not None


def test_weights_load_and_carry_their_card(tmp_path):
    result = train(replace(CONFIG, budget=Budget(steps=2)), tmp_path)
    model = load_model(result.weights)
    assert model.config == CONFIG.model
    card = (result.weights / "card.md").read_text()
    assert "2 steps" in card
    assert "| room-dynamic |" in card
    facts = json.loads((result.weights / "manifest.json").read_text())["facts"]
    assert facts["tokens"] == 2 * 2 * 6 * 4


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete_and_named_after_itself(name):
    config = RECIPES[name]()
    assert config.name == name
    assert json.loads(json.dumps(plain(config))) == plain(config)
    for shape in config.data.shapes:
        assert shape.inputs + shape.targets <= config.data.views


@pytest.mark.slow
def test_the_tiny_recipe_learns_in_thirty_steps(tmp_path, monkeypatch):
    """The real recipe on real procedural scenes, seconds of its forty: only the scenes' stand-in is
    taken away."""
    monkeypatch.undo()
    result = train(replace(RECIPES["tiny"](), budget=Budget(steps=30)), tmp_path)
    lines = [line for line in Curve.read(tmp_path / CURVE) if "loss" in line]
    assert result.weights is not None
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["direct"] < 0.8 * lines[0]["direct"]
