"""Judging one scene, and keeping what it gave in the run directory: in this process or a worker's.

What is kept of a scene is a function of the scene and the weights alone, apart from durations.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everview.datasets.errors import DataError
from everview.models.scene_model import SceneModel
from everview.pipeline.errors import UsageError, exit_code_of
from everview.pipeline.evaluation.config import EvaluationConfig
from everview.pipeline.evaluation.lpips_alex import LpipsAlex
from everview.pipeline.evaluation.pictures import write_pictures
from everview.pipeline.evaluation.protocols import Split, every_eighth, spread_inputs
from everview.pipeline.evaluation.scene_frames import SceneFrames, load_scene
from everview.pipeline.evaluation.scene_scores import SceneScores, score_scene
from everview.pipeline.evaluation.summary import frame_rows, summarise_scene
from everview.pipeline.runs import write_json
from everview.pipeline.runs.metrics import read_json_object


@dataclass(frozen=True)
class Job:
    """One scene to judge. key: its file name in the run directory."""

    source: str
    name: str
    key: str

    def kept_in(self, run: Path) -> Path:
        """The file that holds what the scene gave."""
        return run / "scenes" / f"{self.key}.json"


@dataclass(frozen=True)
class Failure:
    """Why a scene could not be judged. trace: of what was not raised on purpose."""

    reason: str
    exit_code: int
    trace: str | None = None

    @classmethod
    def of(cls, job: Job, error: Exception) -> Failure:
        reason = f"{job.name}: {' '.join(str(error).split()) or type(error).__name__}"
        trace = None if isinstance(error, DataError) else traceback.format_exc()
        return cls(reason, exit_code_of(error), trace)


@dataclass(frozen=True, eq=False)
class Judge:
    """What all scenes share."""

    config: EvaluationConfig
    model: SceneModel
    lpips: LpipsAlex | None
    chunk_counts: tuple[int, ...]
    pictures: int

    def load(self, job: Job) -> SceneFrames:
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


def is_judged(run: Path, job: Job, fingerprint: str) -> bool:
    """Whether an earlier attempt with the same weights kept the scene."""
    return (read_json_object(job.kept_in(run)) or {}).get("weights") == fingerprint


def judge_scene(judge: Judge, run: Path, job: Job, is_only: bool = False) -> None:
    """Judge a scene and keep what it gave. is_only: its pictures and cameras are the run's."""
    begin = time.monotonic()
    scene = judge.load(job)
    scores = judge.score(scene)
    write_pictures(run, scores, judge.pictures, "" if is_only else job.key)
    if is_only:
        write_json(run / "cameras.json", _cameras(scene, scores.split))
    duration = round(time.monotonic() - begin, 3)
    judged = {"weights": judge.model.fingerprint, "rows": frame_rows(scores)}
    summary = summarise_scene(scores) | {"duration_s": duration}
    write_json(job.kept_in(run), judged | {"summary": summary})


def try_scene(judge: Judge, run: Path, job: Job) -> Failure | None:
    """One of several: whatever is wrong with it, a bug included, the others are worth judging."""
    try:
        judge_scene(judge, run, job)
    except Exception as error:
        return Failure.of(job, error)
    return None


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
