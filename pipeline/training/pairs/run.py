"""The training of a pair matcher, from nothing to published weights in a given time.

Scenes come from the scene pool, updates from `Optimiser`, rates, curve and running mean of the
weights as in every training here. The step is its own: `training_step` is that of episodes of a
scene model, which writes and reads a memory under a schedule and counts patches; a pair has none of
these, only a forward pass and a loss.

A run lasts minutes on one GPU. What it commits are the weights as they would be published, so that
one that is cut short leaves something usable; it isn't continued.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everview.models.pairs.files import save_matcher
from everview.models.pairs.matcher import PairMatcher
from everview.pipeline.runs.atomic import write_json
from everview.pipeline.training.held_out import world_name
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.pairs.config import PairLossConfig, PairTrainConfig
from everview.pipeline.training.pairs.drawing import draw_pairs
from everview.pipeline.training.pairs.held_out import held_out_pairs, measure_pairs
from everview.pipeline.training.pairs.losses import pair_loss
from everview.pipeline.training.pairs.truth import PairViews
from everview.pipeline.training.reporting import CURVE, Curve, Reporter
from everview.pipeline.training.scene_pool import ScenePool
from everview.pipeline.training.sources import render_scenes
from everview.pipeline.training.train_run import choose_device

WEIGHTS = "weights"
REPORT = "report.json"


@dataclass
class PairRun:
    """One training run. recent: losses and gradient norms since the last report, on the device."""

    config: PairTrainConfig
    out: Path
    model: PairMatcher
    optimiser: Optimiser
    pool: ScenePool
    held_out: dict[str, PairViews]
    generator: torch.Generator
    report: Reporter
    curve: Curve
    step: int = 0
    elapsed_s: float = 0.0

    @property
    def progress(self) -> float:
        """Share of the budget that is spent."""
        return self.config.budget.progress(self.step, self.elapsed_s)


def train_pairs(config: PairTrainConfig, out: Path, report: Reporter) -> dict[str, Any]:
    """Train until the budget is spent; the facts that are published. Writes OUT/weights,
    OUT/metrics.jsonl and OUT/report.json."""
    started = time.monotonic()
    run = _open(config, out, report)
    report.say(f"{run.pool.storage.scenes} scenes took {time.monotonic() - started:.0f} s")
    started, committed = time.monotonic(), 0.0
    recent: list[dict[str, Tensor]] = []
    said_at = 0.0
    while run.progress < 1.0:
        run.pool.advance(run.step)
        recent.append(_step(run))
        run.step += 1
        if config.budget.steps is not None or run.step % 10 == 0:
            run.elapsed_s = time.monotonic() - started
        if run.step % config.report_every == 0:
            run.elapsed_s = time.monotonic() - started
            _say(run, recent, 1000.0 * (run.elapsed_s - said_at) / len(recent))
            recent, said_at = [], run.elapsed_s
        if run.elapsed_s - committed > config.commit_every_s:
            committed = run.elapsed_s
            _commit(run, finished=False)
    return _commit(run, finished=True)


def _open(config: PairTrainConfig, out: Path, report: Reporter) -> PairRun:
    device = choose_device(config.device)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = PairMatcher(config.model).to(device)
    render = partial(render_scenes, samples_per_pixel=config.data.samples_per_pixel)
    pool = ScenePool(config.data, config.seed, device, render)
    pool.advance(0)
    return PairRun(
        config=config,
        out=out,
        model=model,
        optimiser=Optimiser(model, config.optimiser),
        pool=pool,
        held_out=held_out_pairs(config, render, device),
        generator=torch.Generator().manual_seed(config.seed),
        report=report,
        curve=Curve(out / CURVE, -1),
    )


def _step(run: PairRun) -> dict[str, Tensor]:
    """One update; what to report of it."""
    config, generator = run.config, run.generator
    shares = torch.tensor([share for _, share in config.sizes])
    size = config.sizes[int(torch.multinomial(shares, 1, generator=generator))][0]
    pairs = draw_pairs(run.pool, config, size, generator)
    weights = loss_weights(config.loss, run.progress)
    loss, parts = pair_loss(run.model, pairs, weights)
    run.optimiser.backward(loss)
    verdict = run.optimiser.step(config.rate.factor(run.step, run.progress))
    told = {"loss": loss, **parts}
    return {
        **{name: value.detach() for name, value in told.items()},
        "gradient_norm": verdict.norm,
        "skipped": 1 - verdict.accepted,
    }


def loss_weights(config: PairLossConfig, progress: float) -> dict[str, float]:
    """The weight of every part at `progress`."""
    names = PairLossConfig.__dataclass_fields__
    return {name: getattr(config, name).value(progress) for name in names}


def _say(run: PairRun, recent: list[dict[str, Tensor]], ms: float) -> None:
    names = dict.fromkeys(name for told in recent for name in told)
    means = {
        name: float(torch.stack([told[name].float() for told in recent if name in told]).nanmean())
        for name in names
    }
    line = {"step": run.step, "elapsed_s": round(run.elapsed_s, 1), "ms_per_step": round(ms, 1)}
    run.curve.append({**line, **{name: round(value, 5) for name, value in means.items()}})
    parts = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
    run.report.say(f"{run.progress:6.1%}  step {run.step}  {ms:.0f} ms  {parts}")


def _commit(run: PairRun, finished: bool) -> dict[str, Any]:
    """Measure and publish the weights as they are now."""
    model = _averaged(run)
    measured = measure_pairs(model, run.held_out)
    for name in sorted({key.rpartition("/")[0] for key in measured}):
        run.report.say(
            f"held out {name}: {measured[f'{name}/pixels']:.2f} px, "
            f"{measured[f'{name}/turn_deg']:.2f} degrees, {measured[f'{name}/shift']:.3f} of depth"
        )
    facts: dict[str, Any] = {
        "finished": finished,
        "step": run.step,
        "pairs": run.step * run.config.pairs,
        "minutes": round(run.elapsed_s / 60, 2),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": _device_name(model.device),
        "torch": torch.__version__,
        "held_out": {n: round(v, 4) for n, v in measured.items() if math.isfinite(v)},
    }
    save_matcher(model, run.out / WEIGHTS, _card(run.config, facts, measured), facts)
    write_json(run.out / REPORT, facts)
    return facts


def _averaged(run: PairRun) -> PairMatcher:
    """A matcher with the running mean of the weights, which is what is measured and published."""
    with torch.random.fork_rng(devices=[]):  # new weights are drawn, and thrown away
        model = PairMatcher(run.config.model).to(run.model.device)
    averages = run.optimiser.averages()
    with torch.no_grad():
        for name, own in model.named_parameters():
            own.copy_(averages[name])
    return model.eval()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _card(config: PairTrainConfig, facts: dict[str, Any], measured: dict[str, float]) -> str:
    worlds = config.data.worlds
    total = sum(world.share for world in worlds)
    shares = ", ".join(f"{world_name(world)} {world.share / total:.0%}" for world in worlds)
    sizes = ", ".join(f"{size} px {share:.0%}" for size, share in config.sizes)
    rows = [
        f"| {name} | {measured[f'{name}/pixels']:.2f} | {measured[f'{name}/turn_deg']:.2f} | "
        f"{measured[f'{name}/shift']:.3f} |"
        for name in sorted({key.rpartition("/")[0] for key in measured})
    ]
    return "\n".join(
        [
            f"# {config.name}",
            "",
            f"A pair matcher of {facts['parameters'] / 1e6:.1f}M parameters "
            "(`everview.models.pairs`): matches with confidence, depth up to scale, places. Recipe "
            f"`{config.name}`, seed {config.seed}: {facts['step']} steps of {config.pairs} pairs, "
            f"{facts['minutes']:.1f} minutes on one {facts['device']}.",
            "",
            "## Data",
            "",
            f"Procedural scenes, made while training: {shares}. Sizes: {sizes}.",
            "",
            "## Held-out procedural pairs",
            "",
            "Medians; frames apart behind the name. Pose by weighted matches, with exact depth.",
            "",
            "| pairs | match, px | turn, degrees | shift, of median depth |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )
