"""The single-process training loop: load, forward, backward, step, report, commit, evaluate.

The same call continues a run: the newest checkpoint below `out/checkpoints` that verifies is
taken up, and scenes, episodes and rates go on as if nothing had happened. Bit for bit so on a CPU
with a budget in steps.
"""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from everview.models.scene_model import SceneModel
from everview.models.weight_files import load_model, save_weights
from everview.pipeline.errors import EnvironmentUnfit, InputRejected, UsageError
from everview.pipeline.training.captured import CapturedStep, Step
from everview.pipeline.training.checkpoints import Checkpoint, commit, newest
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.feeding import Feeder, possible_draws
from everview.pipeline.training.held_out import HeldOut, measure, render_held_out
from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.losses import episode_loss
from everview.pipeline.training.model_card import model_card
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.perceptual import open_perceptual
from everview.pipeline.training.precision import mixed_precision
from everview.pipeline.training.reporting import CURVE, Curve, Recent, Reporter, reporter
from everview.pipeline.training.scene_pool import ScenePool
from everview.pipeline.training.sources import render_scenes, scanned_scenes
from everview.pipeline.training.step import training_step

CHECKPOINTS = "checkpoints"
WEIGHTS = "weights"
# settings of a run that may change between its attempts without making it another run
_OPERATIONAL = ("device", "compile", "capture", "commit_every_s", "keep", "report_every")


@dataclass(frozen=True)
class TrainResult:
    """What an attempt left. Its state is committed, finished or not."""

    weights: Path | None
    """folder of the trained weights; None when the run is not finished"""
    metrics: dict[str, Any]
    """the facts of `training_facts`"""
    signal: int | None = None
    """the signal that ended this attempt, if one did; the same call continues"""


@dataclass
class TrainRun:
    """A run in progress: everything that the loop reads and changes."""

    config: TrainConfig
    out: Path
    device: torch.device
    model: SceneModel
    optimiser: Optimiser
    feeder: Feeder
    held_out: HeldOut
    update: Step
    """`training_step`, as it is or as a CUDA graph"""
    step: int = 0
    elapsed_s: float = 0.0
    tokens: int = 0
    recent: Recent = field(default_factory=Recent)
    last_line: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self.config.budget.progress(self.step, self.elapsed_s)


def train(
    config: TrainConfig,
    out: Path,
    attempt_s: float | None = None,
    after_commit: Callable[[TrainRun], None] | None = None,
    until: float | None = None,
) -> TrainResult:
    """Train `config` in the run directory `out`, or go on with what is there.

    The caller owns the directory. SIGINT and SIGTERM end the run after the current step, with a
    commit, and so does `attempt_s` seconds of this call. `after_commit` sees the run after each
    commit and at the end. `until`, in seconds since the epoch, is when learning shall end with its
    cooldown done: the budget becomes the time from the first step to then, whatever it was, also
    for a run that is continued. Raises InputRejected when there are checkpoints of which none
    verifies, UsageError when they are of another configuration, EnvironmentUnfit without the
    device.
    """
    out.mkdir(parents=True, exist_ok=True)
    with reporter() as report, interruption() as interrupted:
        stop = math.inf if attempt_s is None else time.monotonic() + attempt_s
        run = open_run(config, out, report, () if until is None else ("budget",))
        run.feeder.pool.advance(run.step)
        if config.compile and run.device.type == "cuda":
            compile_run(run, report)
        if until is not None:
            run.config = replace(config, budget=budget_until(until, run.elapsed_s))
            report.say(f"learning ends at {run.config.budget.seconds:.0f} s of the run")
        curve = Curve(out / CURVE, run.step)
        clock = Clock(run.elapsed_s)
        committed = measured = clock.seconds()
        while run.progress < 1 and not interrupted and time.monotonic() < stop:
            take_step(run)
            run.elapsed_s = clock.seconds()
            if len(run.recent) >= config.report_every:
                report_steps(run, curve, report)
            if clock.seconds() - measured >= config.evaluation.every_s:
                evaluate(run, curve, report)
                measured = clock.seconds()
            if clock.seconds() - committed >= config.commit_every_s:
                commit_run(run)
                committed = clock.seconds()
                if after_commit is not None:
                    after_commit(run)
        report_steps(run, curve, report)
        commit_run(run)
        weights = None
        if run.progress >= 1:
            evaluate(run, curve, report)
            weights = publish(run)
            report.say(
                f"trained {run.step} steps, {run.tokens / 1e6:.1f} M tokens; weights: {weights}"
            )
        else:
            report.say(f"stopped at step {run.step} ({run.progress:.0%}); the same call continues")
        if after_commit is not None:
            after_commit(run)
        return TrainResult(weights, training_facts(run), interrupted[0] if interrupted else None)


def budget_until(until: float, elapsed_s: float) -> Budget:
    """The budget of a run, `elapsed_s` of which are spent, that ends at the time `until`.

    At least one more second: a deadline that has passed ends the run, with its result.
    """
    return Budget(seconds=elapsed_s + max(until - time.time(), 1.0))


def open_run(
    config: TrainConfig, out: Path, report: Reporter, may_change: tuple[str, ...] = ()
) -> TrainRun:
    """A new run, or the one that `out` holds, brought to where its last checkpoint left it.

    may_change: settings that may differ from the checkpoint's, beside the operational ones.
    """
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    model = load_model(config.start_from) if config.start_from else SceneModel(config.model)
    model = model.to(device).train().requires_grad_(True)
    render = partial(render_scenes, samples_per_pixel=config.data.samples_per_pixel)
    scans = scanned_scenes(config.data, config.seed, device)
    pool = ScenePool(config.data, config.seed, device, render, scans)
    optimiser = Optimiser(model, config.optimiser)
    perceptual = open_perceptual(config.loss, device)
    update: Step = partial(training_step, model, optimiser, perceptual=perceptual)
    if config.capture and device.type == "cuda":
        update = CapturedStep(update, model, report.say)
    run = TrainRun(
        config=config,
        out=out,
        device=device,
        model=model,
        optimiser=optimiser,
        feeder=Feeder(pool, config.seed),
        held_out=render_held_out(config.data, config.evaluation, render, device),
        update=update,
    )
    checkpoint = newest(out / CHECKPOINTS, report.say)
    if checkpoint is None:
        report.say("no checkpoint yet: starting at step 0")
    else:
        restore(run, checkpoint, may_change)
        report.say(f"continuing at step {run.step}")
    return run


def compile_run(run: TrainRun, report: Reporter) -> None:
    """Compile the model's blocks for every shape that the run will meet, and change nothing.

    Done before the clock starts: a budget in seconds is for learning.
    """
    import torch._dynamo

    started = time.monotonic()
    torch._dynamo.config.recompile_limit = 64  # shapes and chunk plans of one kind of layer
    run.model.compile_blocks(dynamic=False)
    weights = run.config.loss.at(0.0)
    for draw in possible_draws(run.config.data):
        episode = run.feeder.sample(draw, seed=0)
        with mixed_precision(run.device):
            _, outputs = run.model.forward(episode, draw.schedule)
        episode_loss(outputs, episode, weights)[0].backward()
    run.model.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    report.say(f"compiled every shape in {time.monotonic() - started:.0f} s")


def take_step(run: TrainRun) -> None:
    """Load an episode, run the training step, remember its result on the device."""
    progress = run.progress
    episode, schedule = run.feeder.episode(run.step, progress)
    weights = run.config.loss.at(progress)
    factor = run.config.rate.factor(run.step, progress)
    result = run.update(episode, schedule, weights, factor)
    run.recent.add(result)
    run.step += 1
    run.tokens += result.tokens


def report_steps(run: TrainRun, curve: Curve, report: Reporter) -> None:
    """Fetch the steps since the last report; one line on the screen and one in the curve."""
    count = len(run.recent)
    if not count:
        return
    since = run.last_line.get("elapsed_s", 0.0)
    line = {
        "step": run.step,
        "elapsed_s": round(run.elapsed_s, 3),
        "progress": round(run.progress, 6),
        "tokens": run.tokens,
        "rate": run.config.rate.factor(run.step, run.progress),
        **run.recent.fetch(),
        "ms_per_step": 1000 * (run.elapsed_s - since) / count,
    }
    run.last_line = line
    curve.append(line)
    report.progress(line)


def evaluate(run: TrainRun, curve: Curve, report: Reporter) -> None:
    """Measure the held-out scenes; one line on the screen and one in the curve."""
    run.measured = measure(run.model, run.held_out)
    curve.append({"step": run.step, "elapsed_s": run.elapsed_s, "held_out": run.measured})
    means = [f"{name} {value:.2f}" for name, value in run.measured.items() if name.count("/") == 1]
    report.say(f"held out at step {run.step}, PSNR in dB: {', '.join(means)}")


def commit_run(run: TrainRun) -> None:
    """Write a checkpoint that the same call continues from."""
    tensors = {
        "model": run.model.state_dict(),
        "optimiser": run.optimiser.state(),
        "random": {"torch": torch.get_rng_state()},
    }
    facts = {
        "step": run.step,
        "elapsed_s": run.elapsed_s,
        "tokens": run.tokens,
        "line": run.last_line,
        "config": plain(run.config),
    }
    commit(run.out / CHECKPOINTS, Checkpoint(run.step, tensors, facts), run.config.keep)


def restore(run: TrainRun, checkpoint: Checkpoint, may_change: tuple[str, ...] = ()) -> None:
    """Take a checkpoint up; nothing of it is used unless all of it fits."""
    may_change = (*_OPERATIONAL, *may_change)
    changed = _difference(checkpoint.facts["config"], plain(run.config), may_change)
    if changed:
        raise UsageError(
            f"{run.out} holds a run with another {changed}; choose another directory or --fresh"
        )
    try:
        run.model.load_state_dict(checkpoint.tensors["model"], strict=True)
        run.optimiser.load_state(dict(checkpoint.tensors["optimiser"]))
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputRejected(
            f"the checkpoint in {run.out} does not fit its own recipe: {error}"
        ) from error
    torch.set_rng_state(checkpoint.tensors["random"]["torch"])
    run.step = checkpoint.step
    run.elapsed_s = float(checkpoint.facts["elapsed_s"])
    run.tokens = int(checkpoint.facts["tokens"])
    run.last_line = dict(checkpoint.facts["line"])


def publish(run: TrainRun, folder: Path | None = None, bits: int = 8) -> Path:
    """Write the weights with their card, by default where the run keeps its result."""
    facts = training_facts(run)
    folder = folder or run.out / WEIGHTS / run.config.name
    card = model_card(run.config, facts)
    return save_weights(run.model, folder, card, bits=bits, facts=facts)


def training_facts(run: TrainRun) -> dict[str, Any]:
    """What the weights' card and the run's metrics say: loss, step, tokens, minutes, PSNR."""
    on_gpu = run.device.type == "cuda"
    return {
        "loss": run.last_line.get("loss"),
        "step": run.step,
        "tokens": run.tokens,
        "minutes": round(run.elapsed_s / 60, 2),
        "device": torch.cuda.get_device_name(run.device) if on_gpu else "CPU",
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "held_out_psnr": {name: round(value, 3) for name, value in run.measured.items()},
    }


class Clock:
    """Seconds of the run over all its attempts."""

    def __init__(self, before_s: float) -> None:
        self._started = time.monotonic() - before_s

    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._started


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that receives the number of the first SIGINT or SIGTERM; a second one is not held."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, note)
    except ValueError:  # not the main thread: whoever owns it handles signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise EnvironmentUnfit("no CUDA device was found; train with --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _difference(
    old: dict[str, Any], new: dict[str, Any], may_change: tuple[str, ...]
) -> str | None:
    """The first field that makes `new` another run than `old`."""
    for name, value in new.items():
        if name not in may_change and old.get(name) != value:
            return name
    return None
