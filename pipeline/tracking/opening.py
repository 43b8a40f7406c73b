"""From a configuration to a tracker that can't disturb a run."""

from __future__ import annotations

import importlib.util
import os
import secrets
from functools import partial
from pathlib import Path

from everview.pipeline.errors import EnvironmentUnfit, UsageError
from everview.pipeline.runs import write_text
from everview.pipeline.tracking.background import BackgroundTracker
from everview.pipeline.tracking.config import Tracking
from everview.pipeline.tracking.tracker import NoTracker, Tracker

_IDENTITY = "tracking_id.txt"
_EXTRAS = {"wandb": "Weights & Biases", "mlflow": "MLflow"}


def open_tracker(tracking: Tracking, run: Path, step: int = 0) -> Tracker:
    """A tracker of the run in the directory `run`, which continues at `step`.

    Returns at once: the tracker opens in its own thread, and a server that doesn't answer is a
    warning. A run that is continued goes on in the same run of the tracker. Raises
    EnvironmentUnfit when the package isn't installed and UsageError for MLflow without an address:
    that is better said before hours of training.
    """
    if tracking.kind == "none":
        return NoTracker()
    if tracking.kind == "tensorboard":
        return BackgroundTracker(partial(_tensorboard, run, step), "TensorBoard")
    if importlib.util.find_spec(tracking.kind) is None:
        raise EnvironmentUnfit(
            f"{_EXTRAS[tracking.kind]} is not installed: install everview[{tracking.kind}], or "
            "track with tensorboard or none"
        )
    if tracking.kind == "mlflow" and not (tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise UsageError(
            "MLflow needs the address of its server: give tracking.uri or MLFLOW_TRACKING_URI"
        )
    opener = _wandb if tracking.kind == "wandb" else _mlflow
    return BackgroundTracker(partial(opener, tracking, run), _EXTRAS[tracking.kind])


def run_identity(run: Path) -> str:
    """A name of this run that no other has, kept in its directory: 16 hexadecimal digits."""
    file = run / _IDENTITY
    if file.exists():
        known = file.read_text("utf-8").strip()
        if len(known) == 16 and known.isalnum():
            return known
    fresh = secrets.token_hex(8)
    write_text(file, fresh + "\n")
    return fresh


def _tensorboard(run: Path, step: int) -> Tracker:
    from everview.pipeline.tracking.to_tensorboard import TensorBoardTracker

    return TensorBoardTracker(run / "tensorboard", step)


def _wandb(tracking: Tracking, run: Path) -> Tracker:
    from everview.pipeline.tracking.to_wandb import WandbTracker

    return WandbTracker(tracking, run, run_identity(run))


def _mlflow(tracking: Tracking, run: Path) -> Tracker:
    from everview.pipeline.tracking.to_mlflow import MlflowTracker

    return MlflowTracker(tracking, run, run_identity(run))
