"""Scenes spread over the workers of a Ray cluster, one scene at a time each.

A worker is handed its next scene when it has answered the last one, so that a slow scene holds
nobody up. What a scene gave comes back as bytes and is kept by the driver alone. A scene whose
worker dies is tried once more by another worker, and named as failed when that one dies too.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from everview.pipeline.cluster import ClusterConfig, cluster
from everview.pipeline.errors import EnvironmentUnfit, EverviewError
from everview.pipeline.evaluation.answers import unpack
from everview.pipeline.evaluation.judging import Failure, Job, Judged
from everview.pipeline.evaluation.workers import Introduction, SceneWorker, Task
from everview.pipeline.streaming.progress import Progress

log = logging.getLogger(__name__)

_TRIES = 2
_FAILED_STARTS = 3
_SECONDS_BETWEEN_LINES = 30.0
_STORE_MIB = 100


@dataclass(frozen=True)
class Errand:
    """What is to be judged and by how many workers. files: what the task needs, as bytes."""

    task: Task
    files: Mapping[str, bytes]
    jobs: Sequence[Job]
    workers: int

    def cluster_config(self, given: ClusterConfig | None) -> ClusterConfig:
        """Room for the workers and the files, where the cluster is one of this process."""
        store = _STORE_MIB + 2 * sum(map(len, self.files.values())) // 2**20
        cpus = self.workers * self.task.threads
        return replace(given or ClusterConfig(), cpus=cpus, object_store_mib=store)


def judge_on_cluster(
    errand: Errand,
    where: ClusterConfig | None,
    progress: Progress,
    on_ready: Callable[[Introduction], None],
    on_judged: Callable[[Job, Judged | Failure], None],
) -> None:
    """Judge every job; on_ready is told of each worker that starts, on_judged of each scene.

    Both are called in the calling thread. Raises EverviewError when no worker can start,
    EnvironmentUnfit for a GPU the cluster doesn't have, and what `cluster` raises.
    """
    with cluster(errand.cluster_config(where)) as found:
        gpus = _gpus_a_worker(errand.task.config.device, found.gpus, errand.workers)
        device = "cuda" if gpus else "cpu"
        task = replace(errand.task, config=replace(errand.task.config, device=device))
        team = _Team(replace(errand, task=task), gpus, progress, on_ready, on_judged)
        try:
            team.work()
        finally:
            team.dismiss()


def _gpus_a_worker(device: str, gpus: float, workers: int) -> float:
    """How much of a GPU each worker gets; more workers than GPUs share them."""
    if device == "cpu" or (device == "auto" and not gpus):
        return 0.0
    if not gpus:
        raise EnvironmentUnfit(f"--device {device}: the cluster has no GPU; use --device cpu")
    return min(1.0, gpus / workers)


@dataclass(eq=False)
class _Member:
    """A worker, as the driver knows it. ready: None until it has introduced itself."""

    actor: Any
    ready: Introduction | None = None
    job: Job | None = None


class _Team:
    """Workers, and what is still to be judged. Every member has something pending or is gone."""

    def __init__(
        self,
        errand: Errand,
        gpus: float,
        progress: Progress,
        on_ready: Callable[[Introduction], None],
        on_judged: Callable[[Job, Judged | Failure], None],
    ) -> None:
        import ray

        self._errand, self._progress = errand, progress
        self._on_ready, self._on_judged = on_ready, on_judged
        self._waiting = deque(errand.jobs)
        self._deaths: Counter[str] = Counter()
        self._failed_starts = 0
        self._pending: dict[Any, _Member] = {}
        self._files = ray.put(dict(errand.files))
        self._actor_class = ray.remote(SceneWorker).options(
            num_cpus=errand.task.threads, num_gpus=gpus, max_restarts=0, max_task_retries=0
        )

    def work(self) -> None:
        """Until every scene has its answer."""
        import ray

        for _ in range(min(self._errand.workers, len(self._waiting))):
            self._hire()
        while self._waiting or any(member.job for member in self._pending.values()):
            done, _ = ray.wait(list(self._pending), timeout=_SECONDS_BETWEEN_LINES)
            if not done and not any(member.ready for member in self._pending.values()):
                self._progress.say("no worker has started yet; is the cluster busy?")
            for reference in done:
                self._hear(reference)

    def dismiss(self) -> None:
        """End every worker: nobody computes on for a driver that has stopped."""
        for member in self._pending.values():
            _end(member)
        self._pending = {}

    def _hear(self, reference: Any) -> None:
        import ray

        member = self._pending.pop(reference)
        try:
            said = ray.get(reference)
        except ray.exceptions.RayError as error:
            self._bury(member, error)
            return
        if member.job is None:
            self._welcome(member, said)
        else:
            self._take(member.job, said)
        self._employ(member)

    def _hire(self) -> None:
        member = _Member(self._actor_class.remote())
        begun = member.actor.begin.remote(self._errand.task.to_json(), self._files)
        self._pending[begun] = member

    def _welcome(self, member: _Member, said: str) -> None:
        introduction = json.loads(said)
        if "error" in introduction:
            _end(member)
            raise EverviewError(f"a worker can't start: {introduction['error']}")
        member.ready = Introduction(**introduction)
        self._failed_starts = 0
        self._on_ready(member.ready)

    def _take(self, job: Job, said: bytes) -> None:
        try:
            answer = unpack(job, said)
        except ValueError as error:
            answer = Failure(f"{job.name}: a worker's answer can't be used: {error}", 1)
        self._on_judged(job, answer)

    def _employ(self, member: _Member) -> None:
        """Hand out the next scene; without one the worker's share of the cluster is given back."""
        if not self._waiting:
            _end(member)
            return
        member.job = self._waiting.popleft()
        self._pending[member.actor.judge.remote(json.dumps(asdict(member.job)))] = member
        assert member.ready is not None
        log.debug("worker %d on %s judges %s", member.ready.pid, member.ready.host, member.job.name)

    def _bury(self, member: _Member, error: Exception) -> None:
        """A worker is lost; its scene is tried by another one, or named as failed."""
        _end(member)
        why = " ".join(str(getattr(error, "cause", error)).split())[:300]
        log.debug("a worker died: %s", why)
        job = member.job
        if job is None:
            self._failed_starts += 1
        else:
            self._deaths[job.key] += 1
            if self._deaths[job.key] < _TRIES:
                self._progress.say(f"a worker died while judging {job.name}: another tries it")
                self._waiting.append(job)
            else:
                reason = f"{job.name}: {_TRIES} workers died while judging it"
                self._on_judged(job, Failure(reason, 1, why))
        if not self._waiting:
            return
        if self._failed_starts < _FAILED_STARTS:
            self._hire()
        elif not self._pending:
            raise EverviewError(
                f"{_FAILED_STARTS} workers died while starting ({why}); fewer --workers need "
                "less memory"
            )


def _end(member: _Member) -> None:
    """Kill a worker for good; one that was only out of reach must not come back with an answer."""
    import ray

    with suppress(Exception):  # Ray may be gone itself
        ray.kill(member.actor, no_restart=True)
