"""`everview evaluate`: a capture or a protocol through a model, into a run directory and a table.

Scenes are isolated: one that fails is named and the others go on. A scene that was judged is kept,
so the same command again judges only what is left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everview.datasets.errors import DataError
from everview.kernels.backend import backends_in_use
from everview.models.scene_model import SceneModel
from everview.pipeline.errors import UsageError, exit_code_of
from everview.pipeline.evaluation.config import EvaluationConfig
from everview.pipeline.evaluation.lpips_alex import LpipsAlex, open_lpips
from everview.pipeline.evaluation.pictures import write_pictures
from everview.pipeline.evaluation.protocols import (
    PROTOCOLS,
    Split,
    every_eighth,
    spread_inputs,
)
from everview.pipeline.evaluation.scene_frames import SceneFrames, load_scene, open_posed
from everview.pipeline.evaluation.scene_scores import SceneScores, score_scene
from everview.pipeline.evaluation.summary import (
    combine,
    combine_gaps,
    frame_rows,
    summarise_scene,
)
from everview.pipeline.evaluation.table import as_text, gap_table, scene_table, score_table
from everview.pipeline.report import write_report
from everview.pipeline.runs import (
    RunDirectory,
    default_run_path,
    describe_device,
    peak_rss_mib,
    write_frames,
    write_json,
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


@dataclass(frozen=True)
class _Job:
    """One scene to judge. key: its file name in the run directory."""

    source: str
    name: str
    key: str


@dataclass(frozen=True, eq=False)
class _Judge:
    """What all scenes share."""

    config: EvaluationConfig
    model: SceneModel
    lpips: LpipsAlex | None
    chunk_counts: tuple[int, ...]
    pictures: int

    def load(self, job: _Job) -> SceneFrames:
        return load_scene(job.source, job.name, self.config.size)

    def split(self, scene: SceneFrames) -> Split:
        """Which frames go in and which are judged. UsageError if that leaves none of either."""
        try:
            if self.config.inputs is not None:
                return spread_inputs(len(scene.frames), self.config.inputs)
            return every_eighth(len(scene.frames))
        except ValueError as error:
            raise UsageError(f"{scene.info.source}: {error}") from None

    def score(self, scene: SceneFrames) -> SceneScores:
        return score_scene(self.model, scene, self.split(scene), self.lpips, self.chunk_counts)


def evaluate(
    config: EvaluationConfig,
    out: Path | None = None,
    fresh: bool = False,
    command: list[str] | None = None,
    progress: Progress | None = None,
    model: SceneModel | None = None,
) -> EvaluationResult:
    """Judge a model on held-out views.

    out: run directory (default under runs/). model: instead of loading `config.weights`.
    Raises what `pipeline.errors` and DataError say; with several scenes only if all of them fail.
    """
    progress = progress or Silent()
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
            backends=backends_in_use(),
            lpips={"backbone": lpips.source if lpips else None},
        )
        judge = _Judge(config, model, lpips, _chunk_counts(config),
                       config.pictures if config.capture else _PICTURES_PER_SCENE)  # fmt: skip
        failed: dict[str, str] = {}
        for number, job in enumerate(jobs):
            progress.step("scenes", number, len(jobs))
            with run.timed("judge"):
                _judge_scene(judge, run, job, failed, is_only=len(jobs) == 1)
        progress.step("scenes", len(jobs), len(jobs))
        result = _conclude(config, run, jobs, failed, lpips_note)
        with run.timed("report"):
            write_report(run.path)
        run.finish(result.exit_code, "; ".join(failed.values()) or None)
    return result


def _jobs(config: EvaluationConfig) -> list[_Job]:
    if config.capture is not None:
        name = Path(config.capture.split("?")[0]).name or config.capture
        return [_Job(config.capture, name, "capture")]
    protocol = PROTOCOLS[str(config.protocol)](config.scenes, config.size)
    return [_Job(scene.url, scene.name, scene.name) for scene in protocol.scenes]


def _chunk_counts(config: EvaluationConfig) -> tuple[int, ...]:
    if config.chunks is not None or config.protocol is None:
        return config.chunks or ()
    return PROTOCOLS[config.protocol](config.scenes, config.size).chunk_counts


def _judge_scene(
    judge: _Judge, run: RunDirectory, job: _Job, failed: dict[str, str], is_only: bool
) -> None:
    """Judge one scene and keep what it gave, unless an earlier attempt already has."""
    kept = run.path / "scenes" / f"{job.key}.json"
    if (read_json_object(kept) or {}).get("weights") == judge.model.fingerprint:
        return
    begin = time.monotonic()
    try:
        scene = judge.load(job)
        scores = judge.score(scene)
        write_pictures(run.path, scores, judge.pictures, "" if is_only else job.key)
    except Exception as error:
        # whatever is wrong with one scene, a bug included, the others are still worth judging
        if is_only:
            raise
        if not isinstance(error, DataError):
            log.warning("%s failed", job.name, exc_info=True)
        failed[job.name] = f"{job.name}: {' '.join(str(error).split()) or type(error).__name__}"
        log.warning("%s (exit code %d alone)", failed[job.name], exit_code_of(error))
        return
    if is_only:
        write_json(run.path / "cameras.json", _cameras(scene, scores.split))
    duration = round(time.monotonic() - begin, 3)
    judged = {"weights": judge.model.fingerprint, "rows": frame_rows(scores)}
    write_json(kept, judged | {"summary": summarise_scene(scores) | {"duration_s": duration}})


def _conclude(
    config: EvaluationConfig,
    run: RunDirectory,
    jobs: Sequence[_Job],
    failed: dict[str, str],
    lpips_note: str,
) -> EvaluationResult:
    """From the kept scenes to `frames.parquet`, `metrics.json` and the printed table."""
    left = [job for job in jobs if job.name not in failed]
    kept = [read_json_object(run.path / "scenes" / f"{job.key}.json") for job in left]
    judged = [scene for scene in kept if scene is not None]
    if not judged:
        raise DataError("no scene could be judged: " + "; ".join(failed.values()))
    summaries = [scene["summary"] for scene in judged]
    write_frames(run.path, (row for scene in judged for row in scene["rows"]))
    values, missing = combine(summaries, lpips_note, peak_rss_mib())
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


def _cameras(scene: SceneFrames, split: Split) -> dict[str, Any]:
    """Every judged or observed camera, for the report and for whoever wants to draw them."""
    roles = dict.fromkeys(split.inputs, "input") | dict.fromkeys(split.targets, "held_out")
    frames = []
    for place, role in sorted(roles.items()):
        camera = scene.frames[place].camera
        assert camera is not None
        frames.append(
            {"id": scene.frames[place].index, "name": scene.frames[place].name, "role": role,
             "width": camera.width, "height": camera.height, "fx": camera.fx, "fy": camera.fy,
             "cx": camera.cx, "cy": camera.cy, "c2w_cv": camera.c2w_cv.tolist()}
        )  # fmt: skip
    return {"axes": "OpenCV, camera-to-world", "scale": scene.info.scale, "frames": frames}


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
