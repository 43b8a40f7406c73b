"""Scenes judged by several processes of this machine, one scene at a time each.

A worker is handed its next scene when it has kept the last one, so that a slow scene holds nobody
up. Workers end with their parent, however it ends, and are not told of Ctrl-C: the parent is.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from everview.pipeline.errors import EverviewError
from everview.pipeline.evaluation.config import EvaluationConfig
from everview.pipeline.evaluation.judging import Failure, Job, Judge, try_scene
from everview.pipeline.evaluation.lpips_alex import open_lpips
from everview.pipeline.streaming.scenes import open_model

_GRACE_S = 5.0


@dataclass(frozen=True)
class Task:
    """What every worker is told. lpips_backbone: where it was found; None measures no LPIPS."""

    config: EvaluationConfig
    run: Path
    lpips_backbone: str | None
    chunk_counts: tuple[int, ...]
    pictures: int
    threads: int

    def judge(self) -> Judge:
        """Load the weights, as every process has to do for itself."""
        model = open_model(self.config.weights, self.config.device)
        lpips = None
        if self.lpips_backbone is not None:
            # what was fetched from the hub lies in its cache now
            place = self.lpips_backbone if Path(self.lpips_backbone).exists() else None
            lpips, _ = open_lpips(place, model.device, download=False)
        return Judge(self.config, model, lpips, self.chunk_counts, self.pictures)


@dataclass(eq=False)
class _Worker:
    number: int
    process: BaseProcess
    connection: Connection
    job: Job | None = None


def judge_in_parallel(
    task: Task,
    jobs: Sequence[Job],
    workers: int,
    on_judged: Callable[[Job, Failure | None], None],
) -> None:
    """Judge every job in one of `workers` processes; on_judged is told of each, as they end.

    Raises EverviewError when a worker dies or can't start; scenes kept until then stay. As with
    everything that starts processes by `multiprocessing`, a script that calls this needs its
    `if __name__ == "__main__"`.
    """
    waiting = deque(jobs)
    with _team(task, workers) as team:
        busy = {worker.connection: worker for worker in team}
        while busy:
            for connection in wait(list(busy), timeout=1.0):
                worker = busy[connection]  # type: ignore[index]
                answer = _answer(worker, workers)
                if worker.job is not None:
                    on_judged(worker.job, answer)
                elif answer is not None:
                    raise EverviewError(answer.reason)
                worker.job = waiting.popleft() if waiting else None
                _send(worker, worker.job)
                if worker.job is None:
                    del busy[worker.connection]


def _answer(worker: _Worker, workers: int) -> Failure | None:
    try:
        answer: Failure | None = worker.connection.recv()
        return answer
    except (EOFError, OSError):
        worker.process.join(_GRACE_S)
        code = worker.process.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        what = f"judging {worker.job.name}" if worker.job else "starting"
        raise EverviewError(
            f"worker {worker.number} of {workers} died ({how}) while {what}; the same command "
            "again goes on from the scenes that were judged, fewer --workers need less memory"
        ) from None


def _send(worker: _Worker, job: Job | None) -> None:
    # if it has died, its missing answer says so
    with suppress(OSError):
        worker.connection.send(job)


@contextmanager
def _team(task: Task, workers: int) -> Iterator[list[_Worker]]:
    """Started workers, all of them ended on the way out."""
    context = multiprocessing.get_context("spawn")
    team: list[_Worker] = []
    try:
        for number in range(1, workers + 1):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(theirs, task), name=f"everview-worker-{number}", daemon=True
            )
            with _ctrl_c_ignored():
                process.start()
            # with the last copy of its end the pipe closes when the worker dies
            theirs.close()
            team.append(_Worker(number, process, mine))
        yield team
        for worker in team:
            worker.process.join(_GRACE_S)
    finally:
        for worker in team:
            worker.process.terminate()
        for worker in team:
            worker.process.join(_GRACE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(_GRACE_S)
            worker.connection.close()


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """For the moment of a start, so that a worker is born with Ctrl-C ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def work(connection: Connection, task: Task) -> None:
    """A worker's life: jobs come over the connection, None ends it; a Failure or None goes back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout = sys.stderr  # the parent's stdout is for its result
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    logging.captureWarnings(True)
    torch.set_num_threads(task.threads)
    try:
        judge = task.judge()
    except Exception as error:
        connection.send(Failure(f"a worker can't start: {error}", 1))
        return
    connection.send(None)
    while (job := connection.recv()) is not None:
        connection.send(try_scene(judge, task.run, job))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
