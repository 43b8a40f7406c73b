"""`everview evaluate`: a capture or a protocol through a model, into a run directory and a table.

Scenes are isolated: one that fails is named and the others go on. A scene that was judged is kept,
so the same command again judges only what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everview.datasets.errors import DataError
from everview.kernels.backend import backends_in_use
from everview.models.scene_model import SceneModel
from everview.pipeline.errors import UsageError
from everview.pipeline.evaluation.config import EvaluationConfig
from everview.pipeline.evaluation.judging import (
    Failure,
    Job,
    Judge,
    is_judged,
    judge_scene,
    try_scene,
)
from everview.pipeline.evaluation.lpips_alex import open_lpips
from everview.pipeline.evaluation.protocols import PROTOCOLS
from everview.pipeline.evaluation.scene_frames import open_posed
from everview.pipeline.evaluation.summary import combine, combine_gaps
from everview.pipeline.evaluation.table import as_text, gap_table, scene_table, score_table
from everview.pipeline.evaluation.workers import Task, judge_in_parallel
from everview.pipeline.report import write_report
from everview.pipeline.runs import (
    RunDirectory,
    default_run_path,
    describe_device,
    peak_rss_mib,
    write_frames,
)
from everview.pipeline.runs.metrics import read_json_object
from everview.pipeline.streaming.progress import Progress, Silent
from everview.pipeline.streaming.scenes import open_model

log = logging.getLogger(__name__)

# A protocol shows some views of every scene; a capture shows --pictures of its one.
_PICTURES_PER_SCENE = 2


@dataclass(frozen=True)
class EvaluationResult:
    """run: the directory. table: for people. metrics: `metrics.json`. failed: scenes by reason."""

    run: Path
    table: str
    metrics: dict[str, Any]
    failed: dict[str, str]

    @property
    def exit_code(self) -> int:
        """0 when every scene was judged, 1 otherwise."""
        return 1 if self.failed else 0


def evaluate(
    config: EvaluationConfig,
    out: Path | None = None,
    fresh: bool = False,
    command: list[str] | None = None,
    progress: Progress | None = None,
    model: SceneModel | None = None,
    workers: int = 1,
) -> EvaluationResult:
    """Judge a model on held-out views.

    out: run directory (default under runs/). model: instead of loading `config.weights`.
    workers: processes that share the scenes and the threads; each loads `config.weights`. The
    numbers are those of one process with as many threads as a worker has: other numbers of threads
    change the rounding, which is 1e-9 of a depth and nothing in a picture.
    Raises what `pipeline.errors` and DataError say; with several scenes only if all of them fail.
    """
    progress = progress or Silent()
    if workers < 1:
        raise UsageError(f"--workers {workers}: at least 1")
    if workers > 1 and model is not None:
        raise UsageError("workers load their weights themselves: name them instead of a model")
    jobs = _jobs(config)
    subject = Path(config.capture).name if config.capture else str(config.protocol)
    out = out or default_run_path("evaluate", subject or "capture", config)
    # what can't be used is refused before anything is written
    if config.capture is not None:
        open_posed(config.capture)
    model = model or open_model(config.weights, config.device)
    lpips, lpips_note = open_lpips(config.lpips_backbone, model.device)
    with RunDirectory.open(out, "evaluate", config, command, fresh) as run:
        if lpips is None:
            log.warning("LPIPS is left out: %s", lpips_note)
        run.note(
            device=describe_device(model.device),
            weights={"name": config.weights, "fingerprint": model.fingerprint},
            backends=backends_in_use(model.device),
            lpips={"backbone": lpips.source if lpips else None},
            workers=workers,
        )
        judge = Judge(config, model, lpips, _chunk_counts(config),
                      config.pictures if config.capture else _PICTURES_PER_SCENE)  # fmt: skip
        with run.timed("judge"):
            failed = _judge_all(judge, run, jobs, workers, progress)
        result = _conclude(config, run, jobs, failed, lpips_note)
        with run.timed("report"):
            write_report(run.path)
        run.finish(result.exit_code, "; ".join(failed.values()) or None)
    return result


def _jobs(config: EvaluationConfig) -> list[Job]:
    if config.capture is not None:
        name = Path(config.capture.split("?")[0]).name or config.capture
        return [Job(config.capture, name, "capture")]
    protocol = PROTOCOLS[str(config.protocol)](config.scenes, config.size)
    return [Job(scene.url, scene.name, scene.name) for scene in protocol.scenes]


def _judge_all(
    judge: Judge, run: RunDirectory, jobs: Sequence[Job], workers: int, progress: Progress
) -> dict[str, str]:
    """Judge what no earlier attempt has; why scenes failed, by their names.

    The only scene of a run may raise what it likes.
    """
    failures: dict[str, str] = {}
    left = [job for job in jobs if not is_judged(run.path, job, judge.model.fingerprint)]
    num_done = len(jobs) - len(left)
    progress.step("scenes", num_done, len(jobs))

    def note(job: Job, failure: Failure | None) -> None:
        nonlocal num_done
        num_done += 1
        if failure is not None:
            failures[job.name] = failure.reason
            if failure.trace is not None:
                log.warning("%s failed\n%s", job.name, failure.trace)
            log.warning("%s (exit code %d alone)", failure.reason, failure.exit_code)
        progress.step("scenes", num_done, len(jobs))

    workers = min(workers, len(left))
    if workers > 1:
        lpips = judge.lpips.source if judge.lpips else None
        threads = max(1, torch.get_num_threads() // workers)
        task = Task(judge.config, run.path, lpips, judge.chunk_counts, judge.pictures, threads)
        judge_in_parallel(task, left, workers, note)
    elif len(jobs) == 1:
        for job in left:
            judge_scene(judge, run.path, job, is_only=True)
            note(job, None)
    else:
        for job in left:
            note(job, try_scene(judge, run.path, job))
    # in the order of the scenes, however they ended
    return {job.name: failures[job.name] for job in jobs if job.name in failures}


def _chunk_counts(config: EvaluationConfig) -> tuple[int, ...]:
    if config.chunks is not None or config.protocol is None:
        return config.chunks or ()
    return PROTOCOLS[config.protocol](config.scenes, config.size).chunk_counts


def _conclude(
    config: EvaluationConfig,
    run: RunDirectory,
    jobs: Sequence[Job],
    failed: dict[str, str],
    lpips_note: str,
) -> EvaluationResult:
    """From the kept scenes to `frames.parquet`, `metrics.json` and the printed table."""
    left = [job for job in jobs if job.name not in failed]
    kept = [read_json_object(job.kept_in(run.path)) for job in left]
    judged = [scene for scene in kept if scene is not None]
    if not judged:
        raise DataError("no scene could be judged: " + "; ".join(failed.values()))
    summaries = [scene["summary"] for scene in judged]
    write_frames(run.path, (row for scene in judged for row in scene["rows"]))
    values, missing = combine(summaries, lpips_note, peak_rss_mib(with_children=True))
    gaps = combine_gaps(summaries)
    values["scenes"] = [*summaries, *({"name": n, "error": why} for n, why in failed.items())]
    values["protocol"] = {
        "name": config.protocol or ("spread" if config.inputs else "every_eighth"),
        "size": config.size,
        "inputs": config.inputs,
        "lpips_backbone": lpips_note,
        "ssim": "torchmetrics, 11x11 Gaussian, sigma 1.5, data range 1",
        "frames_per_s": "observed frames over the time of observing, without decoding",
        "latency_ms": "one held-out view, rendered alone from a frozen state",
    }
    values["details"] = {
        "num_scenes": len(summaries),
        "num_images": sum(s["num_targets"] for s in summaries),
        "identical_images": sum(s["identical_images"] for s in summaries),
        "failed": failed,
        "gaps": gaps,
        "retention_half_life_s": _mean_known([s["retention_half_life_s"] for s in summaries]),
    }
    values["method_name"] = f"everview {config.weights}"
    values["experiment_name"] = run.path.name
    values["checkpoint"] = config.weights
    run.note(
        input=[{"name": s["name"], **s["input"]} for s in summaries],
        gauge={s["name"]: s["gauge"] for s in summaries},
    )
    metrics = run.write_metrics(values, missing)
    return EvaluationResult(run.path, _table(config, metrics, gaps), metrics, failed)


def _table(config: EvaluationConfig, metrics: dict[str, Any], gaps: list[dict[str, Any]]) -> str:
    details = metrics["details"]
    scenes = metrics["scenes"]
    what = scenes[0]["name"] if len(scenes) == 1 else f"{details['num_scenes']} scenes"
    title = (
        f"{what}: {details['num_images']} held-out views, "
        f"{config.size}x{config.size}, weights {config.weights}"
    )
    tables = [score_table(metrics, title)]
    if len(scenes) > 1:
        tables.append(scene_table(scenes))
    if gaps:
        tables.append(gap_table(gaps))
    return as_text(tables)


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
