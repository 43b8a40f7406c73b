"""`everview adapt` as a whole, on a small procedural capture and random weights.

Real: capture, model, training step, judging, run directory. Only LPIPS is left out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everview.models.config import BankConfig, ModelConfig
from everview.models.scene_model import SceneModel
from everview.models.weight_files import load_model, save_weights
from everview.pipeline.adapting import run as adapting
from everview.pipeline.adapting.adaptation import Adaptation, Check, adapt
from everview.pipeline.adapting.config import AdaptConfig, Recipe
from everview.pipeline.adapting.run import adapt_capture
from everview.pipeline.adapting.splits import OwnInputs
from everview.pipeline.errors import UsageError
from everview.pipeline.evaluation.protocols import every_eighth
from everview.pipeline.evaluation.scene_frames import SceneFrames, load_scene
from everview.pipeline.evaluation.scene_scores import scene_gauge
from everview.pipeline.runs import RunDirectory, read_frames, read_metrics
from everview.pipeline.streaming.progress import Silent

CAPTURE = "procedural://orbit?seed=5&frames=16&size=16"
SPLIT = every_eighth(16)
# what random weights draw has detail by chance, which goes first
FAST = Recipe(rate=3e-3, written=4, asked=2, least_sharpness=0.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    bank = BankConfig(
        capacity=6, compared=2, sources=2, hypotheses=4, features=8, groups=2, refine_channels=8
    )
    config = ModelConfig(stack="WTF", dim=32, attention_head_dim=32, bank=bank)
    return save_weights(
        SceneModel(config), tmp_path_factory.mktemp("weights") / "random", "random", bits=32
    )


@pytest.fixture(scope="module")
def scene() -> SceneFrames:
    return load_scene(CAPTURE, "orbit", 16)


@pytest.fixture(autouse=True)
def without_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "left out of this test"
    monkeypatch.setattr(adapting, "search_backbone", lambda *_, side: (None, why))


def adaptation(scene: SceneFrames, weights: Path, recipe: Recipe = FAST) -> Adaptation:
    gauge = scene_gauge(scene, SPLIT.chunks[0])
    own = OwnInputs.of(SPLIT, CAPTURE)
    return Adaptation(load_model(weights), scene, own, gauge, recipe, seed=0)


def test_kept_back_inputs_gain_and_the_best_weights_count(
    scene: SceneFrames, weights: Path
) -> None:
    going = adaptation(scene, weights)
    first = going.check(0.0)
    for step in range(12):
        going.learn(step / 12)
    last = going.check(1.0)
    assert last.psnr > first.psnr + 0.5
    assert last.loss is not None
    assert going.gain_db == pytest.approx(last.psnr - first.psnr)
    for name, value in going.result().named_parameters():
        assert torch.equal(value, dict(going.model.named_parameters())[name])


def test_weights_that_only_get_worse_give_back_the_ones_that_were_given(
    scene: SceneFrames, weights: Path
) -> None:
    harmful = replace(FAST, rate=3.0)
    going = adaptation(scene, weights, harmful)
    checks = list(adapt(going, seconds=3600.0, checks=3600, patience=2, is_over=after(going, 6)))
    assert checks[-1].psnr < checks[0].psnr
    assert going.gain_db == 0.0
    given = dict(load_model(weights).named_parameters())
    for name, value in going.result().named_parameters():
        assert torch.equal(value, given[name])


def shown(step: int, psnr: float, sharpness: float) -> Check:
    return Check(step, float(step), psnr, 10.0, sharpness)


def test_what_gains_by_losing_detail_does_not_count(scene: SceneFrames, weights: Path) -> None:
    going = adaptation(scene, weights, replace(FAST, least_sharpness=0.9))
    going.checks = [shown(0, 20.0, 0.5), shown(1, 21.0, 0.46), shown(2, 22.0, 0.44)]
    assert going.best_check.step == 1
    assert going.gain_db == pytest.approx(1.0)
    assert going.stale_checks == 1
    going.checks = [shown(0, 20.0, 0.5), shown(1, 21.0, 0.4)]
    assert going.gain_db == 0.0
    going.checks = [shown(0, 20.0, 1.6), shown(1, 21.0, 0.95)]
    assert going.gain_db == pytest.approx(1.0)
    # a flat truth has no detail to lose
    going.checks = [shown(0, 20.0, math.nan), shown(1, 21.0, math.nan)]
    assert going.best_check.step == 1


def test_a_check_says_how_much_detail_there_is(scene: SceneFrames, weights: Path) -> None:
    going = adaptation(scene, weights)
    first = going.check(0.0)
    assert first.sharpness > 0.0
    with torch.no_grad():
        for parameter in going.model.parameters():
            parameter.zero_()
    assert going.check(1.0).sharpness < 0.5 * first.sharpness


def test_lpips_is_part_of_the_loss_where_it_can_be_computed(
    scene: SceneFrames, weights: Path
) -> None:
    asked: list[tuple[int, ...]] = []

    def distance(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        asked.append(tuple(images.shape))
        return (images - truth).abs().mean()

    gauge = scene_gauge(scene, SPLIT.chunks[0])
    own = OwnInputs.of(SPLIT, CAPTURE)
    model = load_model(weights)
    going = Adaptation(model, scene, own, gauge, FAST, seed=0, perceptual=distance)
    going.learn(0.0)
    assert asked == [(1, FAST.asked, 3, 16, 16)]
    unweighed = replace(FAST, perceptual=0.0)
    going = Adaptation(model, scene, own, gauge, unweighed, seed=0, perceptual=distance)
    going.learn(0.0)
    assert len(asked) == 1


def test_a_capture_too_small_for_lpips_is_adapted_without_and_says_so(weights: Path) -> None:
    said: list[str] = []

    class Listening(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    config = AdaptConfig(CAPTURE, seconds=1.0, weights=str(weights), size=16, device="cpu")
    assert adapting._perceptual(config, load_model(weights), Listening()) is None
    assert said == [
        "LPIPS is left out of the loss: LPIPS needs pictures of at least 31 x 31 pixels"
    ]
    unweighed = replace(config, recipe=replace(FAST, perceptual=0.0))
    assert adapting._perceptual(unweighed, load_model(weights), Listening()) is None
    assert len(said) == 1


def after(going: Adaptation, steps: int):
    """Says that time is over once so many steps were taken."""
    return lambda: going.step >= steps


def test_checks_that_gain_nothing_end_it_and_no_check_looks_at_the_same_weights_twice(
    scene: SceneFrames, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = adaptation(scene, weights)

    def learn_nothing(progress: float) -> None:
        going.step += 1

    monkeypatch.setattr(going, "learn", learn_nothing)
    checks = list(adapt(going, seconds=0.02, checks=10, patience=3))
    assert len(checks) == 4
    assert len({check.step for check in checks}) == 4
    times = [check.elapsed_s for check in checks]
    assert times == sorted(times)
    assert times[0] == 0.0


def test_a_first_step_that_takes_long_uses_up_no_time(
    scene: SceneFrames, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going = adaptation(scene, weights)
    now = [0.0]

    def learn_nothing(progress: float) -> None:
        now[0] += 1.0 if going.step else 100.0
        going.step += 1

    monkeypatch.setattr(going, "learn", learn_nothing)
    checks = list(adapt(going, seconds=4.0, checks=1, patience=3, clock=lambda: now[0]))
    assert [(check.step, check.elapsed_s) for check in checks] == [(0, 0.0), (5, 4.0)]


def test_a_run_leaves_weights_that_load_and_its_numbers(tmp_path: Path, weights: Path) -> None:
    config = AdaptConfig(
        CAPTURE, seconds=2.0, weights=str(weights), size=16, checks=2, recipe=FAST, device="cpu"
    )
    done = adapt_capture(config, tmp_path / "run")
    metrics = read_metrics(done.run)
    details = metrics["details"]
    assert done.exit_status == 0
    assert details["is_adapted"] is (details["kept_back_gain_db"] >= config.least_gain_db)
    assert details["is_adapted"]
    assert details["held_out_gain_db"] == pytest.approx(
        metrics["psnr"] - details["before"]["psnr"], abs=1e-6
    )
    assert done.weights == str(done.run / "weights")
    assert load_model(done.weights).fingerprint != load_model(weights).fingerprint
    judged = [row["id"] for row in read_frames(done.run) if row["role"] == "held_out"]
    assert judged == [0, 8]
    assert "use --weights" in done.table
    assert (done.run / "report.html").read_text().count("PSNR of inputs that were kept back") == 1
    with pytest.raises(UsageError, match="finished run"):
        adapt_capture(config, tmp_path / "run")


def test_what_gains_too_little_leaves_no_weights_and_says_so(tmp_path: Path, weights: Path) -> None:
    config = AdaptConfig(
        CAPTURE, seconds=0.01, weights=str(weights), size=16, checks=1, least_gain_db=60.0,
        recipe=FAST, device="cpu",
    )  # fmt: skip
    done = adapt_capture(config, tmp_path / "run")
    assert done.weights == str(weights)
    assert not (done.run / "weights").exists()
    assert done.metrics["details"]["held_out_gain_db"] == 0.0
    assert "not adapted" in done.table


def test_a_run_of_stream_stands_for_its_capture_size_and_weights(tmp_path: Path) -> None:
    told = {"capture": "fox/", "size": 64, "weights": "first_light", "hold_out": 8}
    with RunDirectory.open(tmp_path / "streamed", "stream", told):
        pass
    config = adapting.resolved(AdaptConfig(str(tmp_path / "streamed"), seconds=9))
    assert (config.capture, config.size, config.weights) == ("fox/", 64, "first_light")
    assert config.seconds == 9
    with RunDirectory.open(tmp_path / "rendered", "render", {"run": "x"}):
        pass
    with pytest.raises(UsageError, match="is a run of `render`: adapt a capture or"):
        adapting.resolved(AdaptConfig(str(tmp_path / "rendered")))
