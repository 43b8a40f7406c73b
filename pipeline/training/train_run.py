"""A training run in progress: opened or continued, measured, committed, published."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everview.models.episode import Episode
from everview.models.scene_model import SceneModel
from everview.models.schedule import Schedule
from everview.models.shallower import shallower
from everview.models.weight_files import load_model, save_weights
from everview.pipeline.errors import EnvironmentUnfit, InputRejected, UsageError
from everview.pipeline.runs.atomic import disk_errors
from everview.pipeline.training.captured import CapturedStep, Step
from everview.pipeline.training.checkpoint_writer import CheckpointWriter
from everview.pipeline.training.checkpoints import Checkpoint, newest, read
from everview.pipeline.training.config import OPERATIONAL, TrainConfig
from everview.pipeline.training.exchange import Exchange
from everview.pipeline.training.feeding import Feeder
from everview.pipeline.training.held_out import HeldOut, means_over_worlds, measure, render_held_out
from everview.pipeline.training.losses import LossWeights
from everview.pipeline.training.model_card import model_card
from everview.pipeline.training.optimisers import Optimiser, Updater
from everview.pipeline.training.perceptual import open_perceptual
from everview.pipeline.training.pieces import load_pieces, whole_sizes
from everview.pipeline.training.ranks import Ranks
from everview.pipeline.training.reporting import Curve, Recent, Reporter
from everview.pipeline.training.scene_pool import ScenePool
from everview.pipeline.training.sources import render_scenes, stored_scenes
from everview.pipeline.training.step import Objective, StepResult, training_step

CHECKPOINTS = "checkpoints"
WEIGHTS = "weights"
MEASURING_PATIENCE = 20.0
"""Ranks measure held-out scenes at different speeds; nobody is lost for that."""


@dataclass
class TrainRun:
    """A run in progress, as one rank has it: everything that the loop reads and changes."""

    config: TrainConfig
    out: Path
    device: torch.device
    model: SceneModel
    objective: Objective
    optimiser: Updater
    feeder: Feeder
    held_out: HeldOut
    """of the worlds that this rank measures"""
    update: Step
    """`training_step`, as it is or as a CUDA graph"""
    exchange: Exchange
    writer: CheckpointWriter
    parameters: int
    """of the model, whoever holds them"""
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


def open_run(
    config: TrainConfig,
    out: Path,
    report: Reporter,
    exchange: Exchange | None = None,
    may_change: tuple[str, ...] = (),
) -> TrainRun:
    """A new run, or the one that `out` holds, brought to where its last checkpoint left it.

    exchange: with the other ranks. may_change: settings that may differ from the checkpoint's,
    beside the operational ones.
    """
    exchange = exchange or Exchange()
    ranks = exchange.ranks
    ranks.check(config.data.parts)
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    model = first_model(config)
    checkpoint = _last_commit(out / CHECKPOINTS, exchange, report)
    if checkpoint is not None:
        _same_run(config, checkpoint, out, may_change)
        with _fitting(out):
            _load_weights(model, checkpoint)
    model = model.to(device).train().requires_grad_(True)
    if config.parallel.recompute:
        model.recompute_blocks()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    render = partial(render_scenes, samples_per_pixel=config.data.samples_per_pixel)
    stored = stored_scenes(config.data, config.seed)
    pool = ScenePool(config.data, config.seed, device, render, stored, ranks.share)
    side = min(config.data.side(shape) for shape in config.data.shapes)
    perceptual = open_perceptual(config.loss, device, side)
    objective = Objective(model, perceptual, ranks.context)
    optimiser, trained = open_updater(objective, config, ranks)
    run = TrainRun(
        config=config,
        out=out,
        device=device,
        model=model,
        objective=objective,
        optimiser=optimiser,
        feeder=Feeder(pool, config.seed),
        held_out=render_held_out(config.data, config.evaluation, render, device, ranks),
        update=_update(config, device, trained, optimiser, report),
        exchange=exchange,
        writer=CheckpointWriter(out / CHECKPOINTS, exchange, config.keep, report.say),
        parameters=parameters,
    )
    if checkpoint is None:
        report.say("no checkpoint yet: starting at step 0")
    else:
        restore(run, checkpoint)
        report.say(f"continuing at step {run.step}")
    return run


def first_model(config: TrainConfig) -> SceneModel:
    """A model of the configuration, with the weights of `start_from` where it has them too.

    Parts that those weights came before are new, as in a model from nothing; with `start_layers`
    some of their layers are left out first. Raises UsageError for places they lack, and where the
    weights hold what the configured model lacks, or in another shape.
    """
    model = SceneModel(config.model)
    if config.start_from is None:
        return model
    start = load_model(config.start_from)
    if config.start_layers:
        try:
            start = shallower(start, config.start_layers)
        except ValueError as error:
            raise UsageError(f"{config.start_from}: {error}") from None
    own = model.state_dict()
    for name, value in start.state_dict().items():
        if name not in own or own[name].shape != value.shape:
            raise UsageError(
                f"{config.start_from} holds {name!r} of shape {tuple(value.shape)}, for which the "
                f"model of the recipe '{config.name}' has no place; choose other weights"
            )
        own[name].copy_(value)
    return model


def open_updater(
    objective: Objective, config: TrainConfig, ranks: Ranks
) -> tuple[Updater, Objective]:
    """The optimiser that `config.parallel` names, and the objective as it wants to be called."""
    if config.parallel.zero is None:
        return Optimiser(objective.model, config.optimiser, ranks), objective
    if not torch.distributed.is_initialized():
        raise UsageError("--parallel.zero needs worker processes: give --workers, 1 is enough")
    from everview.pipeline.training.deepspeed_engine import DeepSpeedUpdater

    shares = [ranks.share.size(shape.scenes) for shape in config.data.shapes]
    counts = {config.parallel.micro_batches(scenes) for scenes in shares}
    if len(counts) > 1:
        raise UsageError(
            f"with --parallel.zero every shape needs as many micro-batches, but these have "
            f"{sorted(counts)}; change --parallel.micro-scenes"
        )
    updater = DeepSpeedUpdater(objective, config.optimiser, config.parallel, ranks, *counts)
    return updater, updater.engine


def _update(
    config: TrainConfig,
    device: torch.device,
    objective: Objective,
    optimiser: Updater,
    report: Reporter,
) -> Step:
    """The training step with all that stays the same given."""

    def update(
        episode: Episode, schedule: Schedule, weights: LossWeights, rate_factor: float | Tensor
    ) -> StepResult:
        count = config.parallel.micro_batches(episode.inputs.cameras.shape[0])
        return training_step(objective, optimiser, episode, schedule, weights, rate_factor, count)

    if config.capture and device.type == "cuda" and config.parallel.zero is None:
        alone = optimiser.ranks.size == 1
        return CapturedStep(update, objective.model, report.say, alone)
    return update


def _last_commit(folder: Path, exchange: Exchange, report: Reporter) -> Checkpoint | None:
    """The newest checkpoint that verifies, the same for all ranks: the leader chooses."""
    if exchange.ranks.size == 1:
        return newest(folder, report.say)
    if exchange.ranks.leads:
        try:
            found = newest(folder, report.say)
        except InputRejected as error:
            exchange.tell("resume", {"error": str(error)})
            raise
        exchange.tell("resume", {"name": None if found is None else found.name})
        return found
    said = exchange.hear("resume", 0, MEASURING_PATIENCE)
    if "error" in said:
        raise InputRejected(said["error"])
    return None if said["name"] is None else read(folder / said["name"])


def evaluate(run: TrainRun, curve: Curve | None, report: Reporter) -> None:
    """Measure the held-out scenes; one line on the screen and one in the curve."""
    own = measure(run.optimiser.result(), run.held_out)
    parts = run.exchange.gather(f"measured/{run.step}", own, MEASURING_PATIENCE)
    run.measured = means_over_worlds({name: v for part in parts for name, v in part.items()})
    if curve is not None:
        line = {"step": run.step, "elapsed_s": run.elapsed_s, "held_out": run.measured}
        curve.append(line)
    means = [f"{name} {value:.2f}" for name, value in run.measured.items() if name.count("/") == 1]
    report.say(f"held out at step {run.step}, PSNR in dB: {', '.join(means)}")


def commit_run(run: TrainRun) -> None:
    """Start writing a checkpoint that the same call continues from, on any number of ranks."""
    tensors = {"model": run.optimiser.weights(), "optimiser": run.optimiser.state()}
    if run.exchange.ranks.leads:
        tensors["random"] = {"torch": torch.get_rng_state()}
    facts = {
        "step": run.step,
        "elapsed_s": run.elapsed_s,
        "tokens": run.tokens,
        "line": run.last_line,
        "ranks": run.exchange.ranks.size,
        "config": plain(run.config),
    }
    run.writer.submit(run.step, tensors, facts)


def restore(run: TrainRun, checkpoint: Checkpoint) -> None:
    """Take up what a checkpoint holds beside the weights."""
    with _fitting(run.out):
        run.optimiser.load_state(checkpoint.tensors["optimiser"])
    torch.set_rng_state(checkpoint.tensors["random"]["torch"])
    run.step = checkpoint.step
    run.elapsed_s = float(checkpoint.facts["elapsed_s"])
    run.tokens = int(checkpoint.facts["tokens"])
    run.last_line = dict(checkpoint.facts["line"])


def _same_run(
    config: TrainConfig, checkpoint: Checkpoint, out: Path, may_change: tuple[str, ...]
) -> None:
    may_change = (*OPERATIONAL, *may_change)
    changed = _difference(checkpoint.facts["config"], plain(config), may_change)
    if changed:
        raise UsageError(
            f"{out} holds a run with another {changed}; choose another directory or --fresh"
        )


def _load_weights(model: SceneModel, checkpoint: Checkpoint) -> None:
    own = model.state_dict()
    load_pieces(own, checkpoint.tensors["model"], whole_sizes(own))


@contextmanager
def _fitting(out: Path) -> Iterator[None]:
    """Say of a checkpoint that verifies, but isn't of this recipe, that it doesn't fit."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputRejected(
            f"the checkpoint in {out} does not fit its own recipe: {error}"
        ) from error


def publish(run: TrainRun, folder: Path | None = None) -> Path:
    """Write the run's result with its card, by default where the run keeps it: the weights, or
    their running mean where one is kept."""
    folder = folder or run.out / WEIGHTS / run.config.name
    return _save(run, run.optimiser.result(), folder, bits=8)


def publish_trunk(run: TrainRun, folder: Path) -> Path:
    """Write the weights as they are now, for another run to start from, in 16 bits."""
    return _save(run, run.optimiser.whole(), folder, bits=16)


def _save(run: TrainRun, model: SceneModel, folder: Path, bits: int) -> Path:
    facts = training_facts(run)
    if run.exchange.ranks.leads:
        card = model_card(run.config, facts)
        with disk_errors(folder):
            save_weights(model, folder, card, bits=bits, facts=facts)
    return folder


def training_facts(run: TrainRun) -> dict[str, Any]:
    """What the weights' card and the run's metrics say: loss, step, tokens, minutes, PSNR; device
    and ranks are those of this attempt."""
    on_gpu = run.device.type == "cuda"
    return {
        "loss": run.last_line.get("loss"),
        "step": run.step,
        "tokens": run.tokens,
        "minutes": round(run.elapsed_s / 60, 2),
        "device": torch.cuda.get_device_name(run.device) if on_gpu else "CPU",
        "ranks": run.exchange.ranks.size,
        "parameters": run.parameters,
        "held_out_psnr": {name: round(value, 3) for name, value in run.measured.items()},
    }


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
