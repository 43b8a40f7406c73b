"""Weights & Biases. The account is that of `wandb login` or WANDB_API_KEY; WANDB_MODE=offline
keeps everything below RUN/wandb for `wandb sync`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from everview.pipeline.tracking.config import Tracking

_STEP = "step"
_PATIENCE_S = 60.0


class WandbTracker:
    """One run of Weights & Biases. identity: its id there; the same one goes on with the run.

    The axis is a metric of its own, `step`: the built-in one can't go back, and a run that is
    continued repeats the steps after its last checkpoint.
    """

    def __init__(self, tracking: Tracking, run: Path, identity: str) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=tracking.project,
            name=tracking.name or run.resolve().name,
            id=identity,
            resume="allow",
            dir=str(run),
            # no question on the terminal of a run waits for ever, and no server is waited for
            settings=wandb.Settings(login_timeout=_PATIENCE_S, init_timeout=_PATIENCE_S),
        )
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, _STEP: step})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({name: self._wandb.Image(image), _STEP: step})

    def close(self) -> None:
        self._run.finish()
