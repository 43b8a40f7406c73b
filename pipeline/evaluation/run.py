"""`everview evaluate`: captures through a model, into a run directory and a table.

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
from safetensors.torch import save

from everview.datasets.errors import DataError
from everview.datasets.shards import open_shards, scene_titles
from everview.models.scene_model import SceneModel
from everview.models.weight_files import weights_folder
from everview.pipeline.cluster import ClusterConfig
from everview.pipeline.errors import UsageError
from everview.pipeline.evaluation.attempt import Attempt
from everview.pipeline.evaluation.config import EvaluationConfig
from everview.pipeline.evaluation.judging import Job, Judge
from everview.pipeline.evaluation.lpips_alex import Backbone, LpipsAlex, search_backbone
from everview.pipeline.evaluation.protocols import PROTOCOLS
from everview.pipeline.evaluation.scene_frames import open_posed
from everview.pipeline.evaluation.spreading import Errand
from everview.pipeline.evaluation.summary import combine, combine_gaps
from everview.pipeline.evaluation.table import as_text, gap_table, scene_table, score_table
from everview.pipeline.evaluation.workers import Task, luggage
from everview.pipeline.report import write_report
from everview.pipeline.runs import RunDirectory, default_run_path, write_frames
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
    where: ClusterConfig | None = None,
) -> EvaluationResult:
    """Judge a model on held-out views.

    out: run directory (default under runs/). model: instead of loading `config.weights`.
    workers: 1 judges in this process; more are processes of the cluster `where`, each of which
    loads the weights and judges a scene at a time with its share of this process' threads. The
    numbers are those of one process with as many threads as a worker has: other numbers of threads
    change the rounding, which is 1e-9 of a depth and nothing in a picture.
    Raises what `pipeline.errors` and DataError say; with several scenes only if all of them fail.
    """
    _check_workers(config, workers, model, where)
    jobs = _jobs(config)
    subject = Path(config.capture or config.shards or str(config.protocol)).name
    out = out or default_run_path("evaluate", subject or "capture", config)
    # what can't be used is refused before anything is written
    if config.capture is not None:
        open_posed(config.capture)
    is_alone = workers == 1 or config.capture is not None
    workers = 1 if is_alone else workers
    model = model or open_model(config.weights, config.device if is_alone else "cpu")
    backbone, lpips_note = search_backbone(config.lpips_backbone, side=config.size)
    with RunDirectory.open(out, "evaluate", config, command, fresh) as run:
        if backbone is None:
            log.warning("LPIPS is left out: %s", lpips_note)
        threads = max(1, torch.get_num_threads() // workers)
        run.note(
            weights={"name": config.weights, "fingerprint": model.fingerprint},
            lpips={"backbone": backbone.source if backbone else None},
            workers=workers,
            threads_per_worker=threads,
        )
        attempt = Attempt(run, jobs, progress or Silent())
        with run.timed("judge"):
            if is_alone:
                lpips = None if backbone is None else LpipsAlex(backbone, model.device)
                counts, pictures = _chunk_counts(config), _pictures(config)
                attempt.alone(Judge(config, model, lpips, counts, pictures))
            else:
                left = attempt.left(model.fingerprint)
                attempt.on_cluster(_errand(config, left, backbone, workers, threads), where)
        result = _conclude(config, attempt, lpips_note)
        with run.timed("report"):
            write_report(run.path)
        run.finish(result.exit_code, "; ".join(result.failed.values()) or None)
    return result


def _check_workers(
    config: EvaluationConfig, workers: int, model: SceneModel | None, where: ClusterConfig | None
) -> None:
    if workers < 1:
        raise UsageError(f"--workers {workers}: at least 1")
    if workers > 1 and model is not None:
        raise UsageError("workers load their weights themselves: name them instead of a model")
    if workers > 1 and ":" in config.device:
        raise UsageError(
            f"--device {config.device}: the cluster gives every worker its GPU; use --device cuda"
        )
    if workers == 1 and where is not None and where.address:
        raise UsageError(
            f"--address {where.address} with one worker, which is this process: give --workers"
        )


def _errand(
    config: EvaluationConfig,
    left: Sequence[Job],
    backbone: Backbone | None,
    workers: int,
    threads: int,
) -> Errand:
    task = Task(config, _chunk_counts(config), _pictures(config), threads)
    packed = None if backbone is None else save(dict(backbone.tensors))
    return Errand(task, luggage(weights_folder(config.weights), packed), left, workers)


def _pictures(config: EvaluationConfig) -> int:
    return config.pictures if config.capture else _PICTURES_PER_SCENE


def _jobs(config: EvaluationConfig) -> list[Job]:
    if config.capture is not None:
        name = Path(config.capture.split("?")[0]).name or config.capture
        return [Job(config.capture, name, "capture")]
    if config.shards is not None:
        titles = scene_titles(open_shards(config.shards))
        return [Job(f"{config.shards}#{t}", t, t.replace("/", "-")) for t in titles]
    protocol = PROTOCOLS[str(config.protocol)](config.scenes, config.size)
    return [Job(scene.url, scene.name, scene.name) for scene in protocol.scenes]


def _chunk_counts(config: EvaluationConfig) -> tuple[int, ...]:
    if config.chunks is not None or config.protocol is None:
        return config.chunks or ()
    return PROTOCOLS[config.protocol](config.scenes, config.size).chunk_counts


def _conclude(config: EvaluationConfig, attempt: Attempt, lpips_note: str) -> EvaluationResult:
    """From the kept scenes to `frames.parquet`, `metrics.json` and the printed table."""
    run, failed = attempt.run, attempt.failed()
    left = [job for job in attempt.jobs if job.name not in failed]
    kept = [read_json_object(job.kept_in(run.path)) for job in left]
    judged = [scene for scene in kept if scene is not None]
    if not judged:
        raise DataError("no scene could be judged: " + "; ".join(failed.values()))
    summaries = [scene["summary"] for scene in judged]
    write_frames(run.path, (row for scene in judged for row in scene["rows"]))
    values, missing = combine(summaries, lpips_note, attempt.peak())
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
