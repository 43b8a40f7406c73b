"""Checkpoint stall: what training loses to one commit, which is written beside it.

Steps without a commit and steps from a commit until it is on the disk take turns. What a commit
costs is the time of the second beyond as many steps of the first (of the units before and after
it): the wait for the copy to host memory, and what the writer takes from training while it writes.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from everview.models import config as models
from everview.pipeline.benchmarks.scaling.data_parallel import plain_run, steps_of
from everview.pipeline.benchmarks.scaling.processes import found_by_ranks, needed
from everview.pipeline.benchmarks.scaling.rows import Findings, Goal, Row, Setting
from everview.pipeline.errors import EverviewError
from everview.pipeline.training.captured import EAGER_USES
from everview.pipeline.training.config import EpisodeShape, TrainConfig
from everview.pipeline.training.reporting import Silent
from everview.pipeline.training.train_run import CHECKPOINTS, TrainRun, commit_run, open_run

NAME = "checkpoint stall"
GOAL = Goal(0.02, at_most=True, unit="%")
MINUTE_S = 60.0
ROUNDS = 5
UNIT_S = 3.0
"""Steps without a commit, timed at once."""


@dataclass(frozen=True)
class Commit:
    """Steps from the begin of a commit until it was on the disk, or a little longer: how many, how
    long they took in all, of it before the first could begin, and when the disk had it."""

    steps: int
    total_s: float
    blocked_s: float
    written_s: float


def runs_to_commit(setting: Setting) -> tuple[TrainConfig, ...]:
    """On a GPU models of 15M and 312M weights; on a CPU 15M."""
    if setting.on_gpu:
        shape = EpisodeShape(4, 8, 4, (1,))
        return (
            plain_run("312M, 4 x (8 + 4) of 128", models.base312m(), 128, shape, "cuda"),
            plain_run("15M, 4 x (8 + 4) of 128", models.base15m(), 128, shape, "cuda"),
        )
    shape = EpisodeShape(1, 2, 1, (1,))
    if setting.small:
        return (plain_run("tiny, 1 x (2 + 1) of 16", models.tiny(), 16, shape, "cpu"),)
    return (plain_run("15M, 1 x (2 + 1) of 64", models.base15m(), 64, shape, "cpu"),)


def checkpoint_stall(setting: Setting, until: float) -> Iterator[Row]:
    """Rows: one for each model; the figure is the share of a minute that one commit takes."""
    configs = runs_to_commit(setting)
    for place, config in enumerate(configs):
        left = max(until - time.time(), 1.0) / (len(configs) - place)
        ends = time.time() + left
        rounds = 1 if setting.small else ROUNDS
        found, failure = found_by_ranks(measure, 1, setting.device, ends, config, rounds, ends)
        (line,) = needed(found, failure)[-1:]
        yield Row(
            NAME,
            config.name,
            figure=line["stall_s"] / MINUTE_S,
            unit="%",
            goal=GOAL,
            ms={"step": 1e3 * line["quiet_s"], "stall": 1e3 * line["stall_s"],
                "of it blocked": 1e3 * line["blocked_s"]},
            facts={name: line[name] for name in ("state_mib", "written_s", "stalls_s")},
            failure=failure,
        )  # fmt: skip


def measure(
    rank: int, size: int, path: Path, config: TrainConfig, rounds: int, until: float
) -> None:
    """Rounds of steps with and without a commit; medians are written down after each."""
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(config, Path(folder), Silent())
        run.feeder.pool.advance(0)
        steps_of(run)(EAGER_USES + 2)
        # as rarely as a run fetches its results, but often enough to see the commit end
        together = max(1, min(10, int(0.5 / _step_s(run, 1, 2))))
        count = max(1, int(UNIT_S / _step_s(run, together, 1) / together))
        _commit(run, together)  # the first one finds its memory and its folder
        quiet_s = [_step_s(run, together, count)]
        commits: list[Commit] = []
        stalls: list[float] = []
        for _ in range(rounds):
            commits.append(_commit(run, together))
            quiet_s.append(_step_s(run, together, count))
            usual = commits[-1].steps * statistics.mean(quiet_s[-2:])
            stalls.append(commits[-1].total_s - usual)
            Findings(path).add(
                quiet_s=statistics.median(quiet_s),
                stall_s=statistics.median(stalls),
                blocked_s=statistics.median(commit.blocked_s for commit in commits),
                written_s=statistics.median(commit.written_s for commit in commits),
                stalls_s=stalls,
                state_mib=_bytes_of_newest(Path(folder) / CHECKPOINTS) / 2**20,
            )
            if time.time() >= until:
                break
        del run


def _commit(run: TrainRun, together: int) -> Commit:
    """One commit, and steps until it is there. Raises EverviewError when it failed."""
    ended: list[float] = []

    def settle() -> None:
        run.writer.settle()
        ended.append(time.perf_counter())

    begin = time.perf_counter()
    commit_run(run)
    blocked_s = time.perf_counter() - begin
    watching = threading.Thread(target=settle, daemon=True)
    watching.start()
    steps = 0
    while watching.is_alive() or not steps:
        steps_of(run)(together)
        steps += together
    total_s = time.perf_counter() - begin
    if not ended:
        raise EverviewError("the commit failed")
    return Commit(steps, total_s, blocked_s, ended[0] - begin)


def _step_s(run: TrainRun, together: int, count: int) -> float:
    """Seconds of a step, of `count` times as many as are taken `together`."""
    begin = time.perf_counter()
    for _ in range(count):
        steps_of(run)(together)
    return (time.perf_counter() - begin) / (count * together)


def _bytes_of_newest(folder: Path) -> int:
    newest = max(folder.glob("step-*"), key=lambda path: path.name)
    return sum(file.stat().st_size for file in newest.iterdir())
