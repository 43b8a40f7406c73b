"""Judging one scene, in this process or a worker's, and keeping what it gave in the run directory.

Judging gives files as bytes, because a worker on another machine can't reach the directory. What
is kept of a scene is a function of the scene and the weights alone, apart from durations.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everview.datasets.errors import DataError
from everview.models.scene_model import SceneModel
from everview.pipeline.errors import UsageError, exit_code_of
from everview.pipeline.evaluation.config import EvaluationConfig
from everview.pipeline.evaluation.lpips_alex import LpipsAlex
from everview.pipeline.evaluation.pictures import draw_pictures
from everview.pipeline.evaluation.protocols import Split, every_eighth, spread_inputs
from everview.pipeline.evaluation.scene_frames import SceneFrames, load_scene
from everview.pipeline.evaluation.scene_scores import SceneScores, score_scene
from everview.pipeline.evaluation.summary import frame_rows, summarise_scene
from everview.pipeline.runs import peak_rss_mib, write_bytes
from everview.pipeline.runs.metrics import read_json_object


@dataclass(frozen=True)
class Job:
    """One scene to judge. key: its file name in the run directory."""

    source: str
    name: str
    key: str

    @property
    def record(self) -> str:
        """The file of a run directory that says the scene was judged."""
        return f"scenes/{self.key}.json"

    def kept_in(self, run: Path) -> Path:
        """The same file, in a run directory."""
        return run / self.record


@dataclass(frozen=True, eq=False)
class Judged:
    """What a scene gave. files: contents by their names in the run directory, the scene's record
    last. peak_rss_mib: of the process that judged, so far."""

    files: Mapping[str, bytes]
    peak_rss_mib: float

    def keep(self, run: Path) -> None:
        """Write every file whole or not at all; with the record, the scene counts as judged."""
        for name, content in self.files.items():
            write_bytes(run / name, content)


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


def judge_scene(judge: Judge, job: Job, is_only: bool = False) -> Judged:
    """Judge a scene. is_only: its pictures and cameras are the run's."""
    begin = time.monotonic()
    scene = judge.load(job)
    scores = judge.score(scene)
    files = draw_pictures(scores, judge.pictures, "" if is_only else job.key)
    if is_only:
        files["cameras.json"] = _json_bytes(_cameras(scene, scores.split))
    duration = round(time.monotonic() - begin, 3)
    judged = {"weights": judge.model.fingerprint, "rows": frame_rows(scores)}
    summary = summarise_scene(scores) | {"duration_s": duration}
    files[job.record] = _json_bytes(judged | {"summary": summary})
    return Judged(files, peak_rss_mib(with_children=True))


def try_scene(judge: Judge, job: Job) -> Judged | Failure:
    """One of several: whatever is wrong with it, a bug included, the others are worth judging."""
    try:
        return judge_scene(judge, job)
    except Exception as error:
        return Failure.of(job, error)


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


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
