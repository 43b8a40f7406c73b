"""`everview adapt CAPTURE --out DIR`: weights for one capture, and what they are worth.

    weights/        the adapted weights, for `--weights DIR/weights`; only if they gained
    metrics.jsonl   a line a check: seconds, steps, loss, PSNR of the kept-back inputs
    metrics.json    held-out views by the weights that should be used; `details.before` by the given
    views/, report.html

Frames that are held out are judged at the end and looked at by nothing before. Ctrl-C once ends
learning and judges what there is; a run that was killed begins again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from everview.kernels.backend import backends_in_use
from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights, weights_hash
from everview.pipeline.adapting.adaptation import Adaptation, Check, adapt
from everview.pipeline.adapting.config import AdaptConfig
from everview.pipeline.adapting.splits import OwnInputs
from everview.pipeline.errors import UsageError
from everview.pipeline.evaluation.lpips_alex import LpipsAlex, search_backbone
from everview.pipeline.evaluation.pictures import draw_pictures
from everview.pipeline.evaluation.protocols import Split, every_eighth, spread_inputs
from everview.pipeline.evaluation.scene_frames import SceneFrames, load_scene
from everview.pipeline.evaluation.scene_scores import SceneScores, scene_gauge, score_scene
from everview.pipeline.evaluation.summary import combine, frame_rows, summarise_scene
from everview.pipeline.evaluation.table import as_text, score_table
from everview.pipeline.report import write_report
from everview.pipeline.runs import (
    RunDirectory,
    describe_device,
    disk_errors,
    peak_rss_mib,
    read_run,
    write_bytes,
    write_frames,
)
from everview.pipeline.runs.metrics import IMAGE_KEYS
from everview.pipeline.streaming.interrupts import Interrupts
from everview.pipeline.streaming.progress import Progress, Silent
from everview.pipeline.streaming.scenes import open_model
from everview.pipeline.training.losses import Perceptual
from everview.pipeline.training.perceptual import search_perceptual
from everview.pipeline.training.reporting import CURVE, Curve

WEIGHTS = "weights"
_PICTURES = 24


@dataclass(frozen=True)
class Adapted:
    """run: the directory. weights: what should be used, the given ones where adapting gained too
    little. exit_status: 0, or 130 after Ctrl-C."""

    run: Path
    weights: str
    metrics: Mapping[str, Any]
    table: str
    exit_status: int


def resolved(config: AdaptConfig) -> AdaptConfig:
    """With a run of `stream` replaced by its capture, size and weights. Raises UsageError for a
    run of another verb."""
    record = read_run(config.capture) if Path(config.capture).is_dir() else None
    if record is None:
        return config
    if record["verb"] != "stream":
        raise UsageError(
            f"{config.capture} is a run of `{record['verb']}`: adapt a capture or a run of `stream`"
        )
    told = record["config"]
    same = {name: told[name] for name in ("capture", "size", "weights")}
    return replace(config, **same)


def adapt_capture(
    config: AdaptConfig,
    out: Path,
    *,
    fresh: bool = False,
    command: list[str] | None = None,
    progress: Progress | None = None,
) -> Adapted:
    """Do the whole job. Raises DataError for a capture that can't be used, InputRejected for
    weights, UsageError for an `out` that holds something else."""
    progress = progress or Silent()
    config = resolved(config)
    model = open_model(config.weights, config.device)
    with RunDirectory.open(out, "adapt", config, command, fresh) as run:
        with run.timed("load"):
            name = Path(config.capture.partition("?")[0]).name or config.capture
            scene = load_scene(config.capture, name, config.size)
        split = _split(config, scene)
        own = OwnInputs.of(split, config.capture)
        run.note(
            device=describe_device(model.device),
            backends=backends_in_use(model.device),
            weights={"name": config.weights, "hash": weights_hash(config.weights)},
            input={"source": config.capture, "identity": scene.identity},
            frames={"learned": own.learned, "kept_back": own.kept_back, "judged": split.targets},
        )
        gauge = scene_gauge(scene, split.chunks[0])
        is_set = len(split.chunks) == 1
        tuned = open_model(config.weights, config.device)
        perceptual = _perceptual(config, tuned, progress)
        adaptation = Adaptation(
            tuned, scene, own, gauge, config.recipe, config.seed, is_set, perceptual
        )
        with run.timed("adapt"):
            was_cut = _learn(adaptation, config, run.path, progress)
        helped = adaptation.gain_db >= config.least_gain_db
        weights = config.weights
        if helped:
            weights = str(_save(adaptation, config, run.path / WEIGHTS))
        with run.timed("judge"):
            progress.say("judging the held-out frames, before and after")
            chosen = adaptation.result() if helped else model
            metrics, table = _judge(run, model, chosen, scene, split, adaptation, weights)
        with run.timed("report"):
            write_report(run.path)
        status = 130 if was_cut else 0
        run.finish(status)
    return Adapted(run.path, weights, metrics, table, status)


def _split(config: AdaptConfig, scene: SceneFrames) -> Split:
    try:
        if config.inputs is not None:
            return spread_inputs(len(scene.frames), config.inputs)
        return every_eighth(len(scene.frames))
    except ValueError as error:
        raise UsageError(f"{config.capture}: {error}") from None


def _perceptual(config: AdaptConfig, model: SceneModel, progress: Progress) -> Perceptual | None:
    """LPIPS as a loss; None where it has no weight, and with a line that says why where it can't be
    computed."""
    if config.recipe.perceptual == 0:
        return None
    distance, why_not = search_perceptual(model.device, config.size)
    if distance is None:
        progress.say(f"LPIPS is left out of the loss: {why_not}")
    return distance


def _learn(adaptation: Adaptation, config: AdaptConfig, out: Path, progress: Progress) -> bool:
    """Until it ends; a line a check. Returns whether Ctrl-C ended it."""
    curve = Curve(out / CURVE, -1)  # a run that was killed begins again
    with Interrupts(
        lambda: progress.say("judging what was learned; Ctrl-C again stops at once")
    ) as interrupts:
        limits = config.seconds, config.checks, config.patience
        for check in adapt(adaptation, *limits, is_over=lambda: interrupts.should_stop):
            curve.append(_line(check))
            progress.step(
                "adapt", min(int(check.elapsed_s), int(config.seconds)), int(config.seconds)
            )
            progress.say(
                f"{check.elapsed_s:6.1f} s  step {check.step}  kept-back inputs "
                f"{check.psnr:.2f} dB, memory alone {check.memory_alone_psnr:.2f}, "
                f"sharpness {check.sharpness:.2f}"
            )
        if interrupts.is_terminated:
            raise SystemExit(143)
        return interrupts.is_requested


def _line(check: Check) -> dict[str, Any]:
    line = {"step": check.step, "elapsed_s": round(check.elapsed_s, 3)}
    kept = {"kept-back inputs": check.psnr, "memory alone": check.memory_alone_psnr}
    return line | ({} if check.loss is None else {"loss": check.loss}) | {"held_out": kept}


def _save(adaptation: Adaptation, config: AdaptConfig, folder: Path) -> Path:
    gain = adaptation.gain_db
    card = (
        f"# {config.weights}, adapted to one capture\n\n"
        f"From `{config.weights}` by `everview adapt`: {adaptation.step} steps on the inputs of "
        f"one capture at {config.size} px, which gained {gain:.2f} dB on inputs that were kept "
        "back. "
        "Worth nothing, or less, on other captures.\n"
    )
    facts = {"from": config.weights, "step": adaptation.step, "gain_db": round(gain, 3)}
    with disk_errors(folder):
        return save_weights(adaptation.result(), folder, card, bits=16, facts=facts)


def _judge(
    run: RunDirectory,
    given: SceneModel,
    chosen: SceneModel,
    scene: SceneFrames,
    split: Split,
    adaptation: Adaptation,
    weights: str,
) -> tuple[dict[str, Any], str]:
    """Held-out frames by the given weights and by those that should be used."""
    side = min(scene.frames[0].image.shape[:2])
    backbone, why_not = search_backbone(None, side=side)
    lpips = None if backbone is None else LpipsAlex(backbone, given.device)
    before = score_scene(given, scene, split, lpips)
    after = before if chosen is given else score_scene(chosen, scene, split, lpips)
    for name, content in draw_pictures(after, _PICTURES).items():
        write_bytes(run.path / name, content)
    write_frames(run.path, frame_rows(after))
    values, missing = combine([summarise_scene(after)], why_not, peak_rss_mib())
    checks = [asdict(check) for check in adaptation.checks]
    values["details"] = {
        "is_adapted": chosen is not given,
        "weights": weights,
        "kept_back_gain_db": adaptation.gain_db,
        "held_out_gain_db": after.model.psnr.mean().item() - before.model.psnr.mean().item(),
        "before": {key: before.model.means()[key] for key in IMAGE_KEYS},
        "before_memory_alone": {key: before.memory_alone.means()[key] for key in IMAGE_KEYS},
        "checks": checks,
    }
    values |= {"step": adaptation.step, "checkpoint": weights}
    metrics = run.write_metrics(values, missing)
    return metrics, _table(metrics, adaptation, scene, after)


def _table(
    metrics: dict[str, Any], adaptation: Adaptation, scene: SceneFrames, scores: SceneScores
) -> str:
    details = metrics["details"]
    count = len(scores.split.targets)
    table = score_table(metrics, f"{scene.name}: {count} held-out views, {details['weights']}")
    first, best = adaptation.checks[0], adaptation.best_check
    if details["is_adapted"]:
        verdict = (
            f"adapted in {best.elapsed_s:.0f} s, {best.step} steps: kept-back inputs "
            f"{first.psnr:.2f} to {best.psnr:.2f} dB, held-out views "
            f"{details['before']['psnr']:.2f} to {metrics['psnr']:.2f} dB; "
            f"use --weights {details['weights']}"
        )
    else:
        verdict = (
            f"not adapted: the kept-back inputs gained {details['kept_back_gain_db']:.2f} dB "
            f"without losing detail, too little; go on with --weights {details['weights']}"
        )
    return "\n".join([as_text([table]), verdict])
