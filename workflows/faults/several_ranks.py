"""Rows of the fault matrix that training on several workers of a Ray cluster can meet."""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from everview.workflows.faults.one_process import unharmed
from everview.workflows.faults.trial import (
    Attempt,
    Left,
    Training,
    commits_of,
    demand,
    start,
    steps_of,
    train,
)

PAIR = Training(steps=60, workers=2, commit_every_s=0.5)
_RANK = "ray::RayTrainWorker"
_AGENTS_S = 90.0
"""Two idle agents of Ray notice after a minute that their driver was killed."""
_RECOVERED_S = 90.0
"""From a kill to the first new step, on two cores."""


def ranks_of(attempt: Attempt) -> list[psutil.Process]:
    """The processes that train, of a driver's descendants."""
    found = []
    for process in attempt.process.children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(_RANK):
                found.append(process)
        except psutil.Error:  # it has just ended
            continue
    return found


def worker_killed(seed: int, folder: Path) -> float:
    """Row 1. One of two workers gets SIGKILL at one to three random steps: the run ends as an
    unharmed one. Returns the longest recovery: from the kill to the first step after it."""
    chance = random.Random(seed)
    expected = unharmed(folder, PAIR)
    out = folder / f"worker-{seed}"
    attempt = start(PAIR.words(out), folder / f"worker-{seed}.log")
    longest, victims = 0.0, sorted(chance.sample(range(3, PAIR.steps - 3), chance.randint(1, 3)))
    for step in victims:
        attempt.until(_reached(out, step), f"step {step}")
        ranks = attempt.until(lambda: len(ranks_of(attempt)) >= 2 and ranks_of(attempt), "ranks")
        chance.choice(sorted(ranks, key=lambda rank: rank.pid)).send_signal(signal.SIGKILL)
        killed = time.monotonic()
        gone = steps_of(out)
        attempt.until(_reached(out, gone + 1), "a step after the kill")
        longest = max(longest, time.monotonic() - killed)
    code = attempt.wait()
    demand(code == 0, f"exit code {code}: {attempt.said()[-400:]}")
    Left.by(out).demand_equal(expected)
    demand(longest <= _RECOVERED_S, f"{longest:.0f} s from a kill to the next step")
    return longest


def _reached(out: Path, step: int) -> Callable[[], bool]:
    return lambda: steps_of(out) >= step


def driver_killed(seed: int, folder: Path) -> float:
    """Row 3. SIGKILL of the driver: its workers die with it, and the same command goes on."""
    expected = unharmed(folder, PAIR)
    out = folder / f"driver-{seed}"
    attempt = start(PAIR.words(out), folder / f"driver-{seed}.log")
    step = random.Random(seed).randint(3, PAIR.steps - 3)
    attempt.until(_reached(out, step), f"step {step}")
    attempt.until(lambda: commits_of(out), "first commit")
    ranks, left = ranks_of(attempt), attempt.process.children(recursive=True)
    attempt.kill()
    _, training = psutil.wait_procs(ranks, timeout=15)
    demand(not training, f"{len(training)} ranks outlive their driver")
    _, alive = psutil.wait_procs(left, timeout=_AGENTS_S)
    demand(not alive, f"{len(alive)} processes outlive their driver: {_names(alive)}")
    again = train(PAIR, out)
    demand("continuing at step" in again.said(), "it began anew")
    Left.by(out).demand_equal(expected)
    return time.monotonic() - again.started


def _names(processes: list[psutil.Process]) -> str:
    return ", ".join(p.name() for p in processes if p.is_running())


def other_number_of_workers(seed: int, folder: Path) -> float:
    """Row 5. Two workers, then one that takes the shares of both one after the other, then two
    again, each until SIGTERM: the curve and weights of an unharmed run.

    One that takes all scenes at once adds up in another order, and after 60 steps a difference of
    1e-8 is one of up to 6e-4: training is chaotic at this rate.
    """
    expected = unharmed(folder, PAIR)
    out = folder / f"workers-{seed}"
    chance = random.Random(seed)
    both = Training(PAIR.steps, 1, PAIR.commit_every_s, ("--parallel.micro-scenes", "2"))
    for training, step in ((PAIR, chance.randint(5, 20)), (both, chance.randint(25, 40))):
        attempt = start(training.words(out), folder / f"workers-{seed}.log")
        attempt.until(_reached(out, step), f"step {step}")
        attempt.process.send_signal(signal.SIGTERM)
        code = attempt.wait()
        demand(code == 143, f"exit code {code}: {attempt.said()[-400:]}")
    again = train(PAIR, out)
    Left.by(out).demand_equal(expected)
    return time.monotonic() - again.started


def rank_hangs(seed: int, folder: Path) -> float:
    """Row 25. One rank stops for ever (SIGSTOP): an error that names it, within the timeout."""
    training = Training(
        steps=4000, workers=2, commit_every_s=2.0,
        more=("--parallel.timeout-s", "10", "--parallel.max-failures", "0"),
    )  # fmt: skip
    out = folder / f"hang-{seed}"
    attempt = start(training.words(out), folder / f"hang-{seed}.log")
    attempt.until(_reached(out, 3), "step 3")
    ranks = sorted(ranks_of(attempt), key=lambda rank: rank.pid)
    stopped = random.Random(seed).choice(ranks)
    stopped.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        code = attempt.wait(150)
    finally:
        if stopped.is_running():
            stopped.send_signal(signal.SIGKILL)
        if attempt.process.is_running():
            attempt.kill()
    told = re.search(r"rank (\d): rank (\d) of 2", attempt.said())
    demand(code == 75, f"exit code {code}: {attempt.said()[-400:]}")
    demand(told is not None and told[1] != told[2], f"it isn't named: {attempt.said()[-600:]}")
    return time.monotonic() - began
