"""One attempt at the scenes of an evaluation, in this process or on a cluster.

Whoever judges, this process alone writes into the run directory.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from everview.kernels.backend import backends_in_use
from everview.pipeline.cluster import ClusterConfig
from everview.pipeline.evaluation.judging import (
    Failure,
    Job,
    Judge,
    Judged,
    is_judged,
    judge_scene,
    try_scene,
)
from everview.pipeline.evaluation.spreading import Errand, judge_on_cluster
from everview.pipeline.evaluation.workers import Introduction
from everview.pipeline.runs import RunDirectory, describe_device, peak_rss_mib
from everview.pipeline.streaming.progress import Progress

log = logging.getLogger(__name__)


@dataclass
class Attempt:
    """Scenes judged into `run`. failures: by scene, why. peak_rss_mib: of the largest process."""

    run: RunDirectory
    jobs: Sequence[Job]
    progress: Progress
    failures: dict[str, Failure] = field(default_factory=dict)
    peak_rss_mib: float = 0.0
    _done: int = 0

    def left(self, fingerprint: str) -> list[Job]:
        """The scenes that no earlier attempt with the same weights has kept."""
        left = [job for job in self.jobs if not is_judged(self.run.path, job, fingerprint)]
        self._done = len(self.jobs) - len(left)
        self.progress.step("scenes", self._done, len(self.jobs))
        return left

    def alone(self, judge: Judge) -> None:
        """Judge in this process. The only scene of a run may raise what it likes."""
        device = judge.model.device
        self.run.note(device=describe_device(device), backends=backends_in_use(device))
        for job in self.left(judge.model.fingerprint):
            if len(self.jobs) == 1:
                self.take(job, judge_scene(judge, job, is_only=True))
            else:
                self.take(job, try_scene(judge, job))

    def on_cluster(self, errand: Errand, where: ClusterConfig | None) -> None:
        """Judge the scenes of `errand`, which are what is left, by workers."""
        if errand.jobs:
            judge_on_cluster(errand, where, self.progress, self._meet, self.take)

    def take(self, job: Job, answer: Judged | Failure) -> None:
        """Keep what a scene gave, or note why it gave nothing."""
        if isinstance(answer, Failure):
            self.failures[job.name] = answer
            if answer.trace is not None:
                log.warning("%s failed\n%s", job.name, answer.trace)
            log.warning("%s (exit code %d alone)", answer.reason, answer.exit_code)
        else:
            answer.keep(self.run.path)
            self.peak_rss_mib = max(self.peak_rss_mib, answer.peak_rss_mib)
        self._done += 1
        self.progress.step("scenes", self._done, len(self.jobs))

    def failed(self) -> dict[str, str]:
        """Why scenes failed, by their names, in the order of the scenes however they ended."""
        names = [job.name for job in self.jobs if job.name in self.failures]
        return {name: self.failures[name].reason for name in names}

    def peak(self) -> float:
        """Largest resident memory of this process and those that judged, MiB."""
        return max(self.peak_rss_mib, peak_rss_mib(with_children=True))

    def _meet(self, worker: Introduction) -> None:
        self.run.note(device=worker.device, backends=worker.backends)
