"""Where the curves of a run go besides its own directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everview.pipeline.errors import UsageError

KINDS = ("tensorboard", "wandb", "mlflow", "none")


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """A tracker and where it is. Keys and passwords are the tracker's own: from its environment
    variables or its login, never from here."""

    kind: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
    """tensorboard writes below RUN/tensorboard; wandb and mlflow are extras of everview"""
    project: str = "everview"
    """project of Weights & Biases, experiment of MLflow"""
    name: str = ""
    """how the run is called there; the name of its directory unless given"""
    uri: str = ""
    """MLflow's tracking server, http://HOST:PORT; MLFLOW_TRACKING_URI unless given"""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"there is no tracker {self.kind!r}; there is {', '.join(KINDS)}")
        if not self.project:
            raise UsageError("a tracker needs a project")
        if "@" in self.uri:
            raise UsageError(
                "the address of a tracker holds no password: give it in MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD"
            )
        if self.uri and self.kind != "mlflow":
            raise UsageError(f"the uri {self.uri} is for mlflow, and the tracker is {self.kind}")
