"""A worker of an evaluation: a Ray actor that loads the weights once and judges scene after scene.

All it is told and all it answers are bytes and JSON: it may run on a machine that sees none of the
driver's files, so the weights and LPIPS's backbone come with the task.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everview.pipeline.evaluation.config import EvaluationConfig

if TYPE_CHECKING:
    from everview.pipeline.evaluation.judging import Judge

_WEIGHTS, _BACKBONE = "weights", "backbone.safetensors"


@dataclass(frozen=True)
class Task:
    """What every worker is told. threads: of torch, which decide how sums are rounded.

    config: with the device a worker uses.
    """

    config: EvaluationConfig
    chunk_counts: tuple[int, ...]
    pictures: int
    threads: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The task that `to_json` wrote. Raises ValueError, TypeError or KeyError for any other."""
        fields = json.loads(text)
        config = fields["config"]
        config["chunks"] = None if config["chunks"] is None else tuple(config["chunks"])
        counts = tuple(int(count) for count in fields["chunk_counts"])
        return cls(**fields | {"config": EvaluationConfig(**config), "chunk_counts": counts})


def luggage(weights: Path, backbone: bytes | None) -> dict[str, bytes]:
    """The files that workers need, by the names that `SceneWorker` unpacks them under.

    weights: their folder. backbone: of LPIPS, as safetensors; None measures no LPIPS.
    """
    files = {f"{_WEIGHTS}/{p.name}": p.read_bytes() for p in weights.iterdir() if p.is_file()}
    return files if backbone is None else files | {_BACKBONE: backbone}


@dataclass(frozen=True)
class Introduction:
    """A worker that is ready: where it runs, and what it judges with."""

    pid: int
    host: str
    fingerprint: str
    device: Mapping[str, Any]
    backends: Mapping[str, Any]


class SceneWorker:
    """The actor. `begin` is called once, then `judge` for each scene; both answer with JSON."""

    def begin(self, task_json: str, files: Mapping[str, bytes]) -> str:
        """Load what the task needs. An `Introduction`, or {"error": a sentence}."""
        logging.captureWarnings(True)
        try:
            task = Task.from_json(task_json)
            import torch

            from everview.kernels.backend import backends_in_use
            from everview.pipeline.runs import describe_device

            torch.set_num_threads(task.threads)
            with tempfile.TemporaryDirectory(prefix="everview-worker-") as place:
                self._judge = _open_judge(task, files, Path(place))
            device = self._judge.model.device
            ready = Introduction(
                os.getpid(), platform.node(), self._judge.model.fingerprint,
                describe_device(device), backends_in_use(device),
            )  # fmt: skip
        except Exception as error:  # the driver says it, once, for all workers
            return json.dumps({"error": f"{type(error).__name__}: {error}"})
        return json.dumps(asdict(ready))

    def judge(self, job_json: str) -> bytes:
        """Judge the scene of a `Job` in JSON; `answers.pack` of what it gave."""
        from everview.pipeline.evaluation.answers import pack
        from everview.pipeline.evaluation.judging import Job, try_scene

        return pack(try_scene(self._judge, Job(**json.loads(job_json))))


def _open_judge(task: Task, files: Mapping[str, bytes], place: Path) -> Judge:
    from everview.pipeline.evaluation.judging import Judge
    from everview.pipeline.evaluation.lpips_alex import open_lpips
    from everview.pipeline.streaming.scenes import open_model

    (place / _WEIGHTS).mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    model = open_model(str(place / _WEIGHTS), task.config.device)
    lpips = None
    if _BACKBONE in files:
        lpips, _ = open_lpips(place / _BACKBONE, model.device, download=False)
    return Judge(task.config, model, lpips, task.chunk_counts, task.pictures)
