"""MLflow, by its client rather than its global state: a run of ours is one run there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from everview.pipeline.tracking.config import Tracking

_TAG = "everview.run"


class MlflowTracker:
    """One run of MLflow, in the experiment `tracking.project`.

    identity: a tag by which a run that is continued is found again. The server is `tracking.uri` or
    MLFLOW_TRACKING_URI; there is no default, because MLflow writes into no folder any more.
    """

    def __init__(self, tracking: Tracking, run: Path, identity: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=tracking.uri or None)
        experiment = self._experiment(tracking.project)
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{identity}'")
        if found:
            self._run = found[0].info.run_id
            self._client.set_terminated(self._run, "RUNNING")
        else:
            name = tracking.name or run.resolve().name
            made = self._client.create_run(experiment, tags={_TAG: identity}, run_name=name)
            self._run = made.info.run_id

    def _experiment(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        return str(known.experiment_id if known else self._client.create_experiment(name))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._client.log_image(self._run, image, key=name, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run, "FINISHED")
