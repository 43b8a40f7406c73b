"""The training loop: load, forward, backward, step, report, commit, evaluate.

The same call continues a run: the newest checkpoint below `out/checkpoints` that verifies is
taken up, and scenes, episodes and rates go on as if nothing had happened. Bit for bit so on a CPU
with a budget in steps.

Several ranks run the same loop. What depends on a clock or a signal is agreed on after every step:
all take the same steps and commit, measure and stop together. The first rank's clock counts.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from everview.pipeline.tracking import NoTracker, TrackedCurve, open_tracker
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.exchange import Exchange
from everview.pipeline.training.feeding import possible_draws
from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.reporting import CURVE, Curve, Reporter, Silent, reporter
from everview.pipeline.training.train_run import (
    MEASURING_PATIENCE,
    TrainRun,
    commit_run,
    evaluate,
    open_run,
    publish,
    training_facts,
)


@dataclass(frozen=True)
class TrainResult:
    """What an attempt left. Its state is committed, finished or not."""

    weights: Path | None
    """folder of the trained weights; None when the run is not finished"""
    metrics: dict[str, Any]
    """the facts of `training_facts`"""
    signal: int | None = None
    """the signal that ended this attempt, if one did; the same call continues"""


def train(
    config: TrainConfig,
    out: Path,
    attempt_s: float | None = None,
    after_commit: Callable[[TrainRun], None] | None = None,
    until: float | None = None,
    exchange: Exchange | None = None,
    stop_signal: Callable[[], int] | None = None,
) -> TrainResult:
    """Train `config` in the run directory `out`, or go on with what is there.

    The caller owns the directory. SIGINT and SIGTERM end the run after the current step, with a
    commit, and so does `attempt_s` seconds of this call. `after_commit` sees the run after each
    commit and at the end. `until`, in seconds since the epoch, is when learning shall end with its
    cooldown done: the budget becomes the time from the first step to then, whatever it was, also
    for a run that is continued. exchange: with the other ranks, each of which makes this call.
    stop_signal: asked after every step for the number of a signal that someone else received, or 0.
    Raises InputRejected when there are checkpoints of which none verifies, UsageError when they are
    of another configuration or can't be trained by so many ranks, EnvironmentUnfit without the
    device, LostRankError when another rank doesn't come.
    """
    out.mkdir(parents=True, exist_ok=True)
    exchange = exchange or Exchange()
    with reporter() as report, interruption() as interrupted, exchange.naming_the_lost():
        if not exchange.ranks.leads:
            report = Silent()
        may_change = () if until is None else ("budget",)
        run = open_run(config, out, report, exchange, may_change)
        run.feeder.pool.advance(run.step)
        if config.compile and run.device.type == "cuda":
            compile_run(run, report)
        if until is not None:
            left = budget_until(until, run.elapsed_s).seconds
            left = exchange.gather("budget", left, MEASURING_PATIENCE)[0]  # the first one's clock
            run.config = replace(config, budget=Budget(seconds=left))
            report.say(f"learning ends at {run.config.budget.seconds:.0f} s of the run")
        loop = _Loop(run, report, attempt_s, interrupted, stop_signal, after_commit)
        try:
            return loop.run_out()
        finally:
            run.writer.leave()
            loop.tracker.close()


class _Loop:
    """One attempt at a run, as one rank goes through it."""

    def __init__(
        self,
        run: TrainRun,
        report: Reporter,
        attempt_s: float | None,
        interrupted: list[int],
        stop_signal: Callable[[], int] | None,
        after_commit: Callable[[TrainRun], None] | None,
    ) -> None:
        self.run, self.report = run, report
        leads = run.exchange.ranks.leads
        self.tracker = (
            open_tracker(run.config.tracking, run.out, run.step) if leads else NoTracker()
        )
        tracked = TrackedCurve(self.tracker)
        self.curve = Curve(run.out / CURVE, run.step, tracked) if leads else None
        self.clock = Clock(run.elapsed_s)
        self.ends = math.inf if attempt_s is None else time.monotonic() + attempt_s
        self.interrupted, self.stop_signal = interrupted, stop_signal
        self.after_commit = after_commit
        self.ended = (0, False)
        self._agree()
        self.committed = self.measured = run.elapsed_s

    def run_out(self) -> TrainResult:
        """Steps until the budget is spent or somebody ends the attempt; what it leaves."""
        run, config = self.run, self.run.config
        while run.progress < 1 and not any(self.ended):
            take_step(run)
            self._agree()
            if len(run.recent) >= config.report_every:
                report_steps(run, self.curve, self.report)
            if run.elapsed_s - self.measured >= config.evaluation.every_s:
                evaluate(run, self.curve, self.report)
                self._agree()
                self.measured = run.elapsed_s
            if run.elapsed_s - self.committed >= config.commit_every_s:
                self._commit()
                self._agree()
                self.committed = run.elapsed_s
        report_steps(run, self.curve, self.report)
        self._commit()
        weights = None
        if run.progress >= 1:
            evaluate(run, self.curve, self.report)
            weights = publish(run)
            self.report.say(
                f"trained {run.step} steps, {run.tokens / 1e6:.1f} M tokens; weights: {weights}"
            )
        else:
            self.report.say(
                f"stopped at step {run.step} ({run.progress:.0%}); the same call continues"
            )
        run.writer.settle()
        if self.after_commit is not None:
            self.after_commit(run)
        run.exchange.leave()  # a commit counts for all, once the first rank has it
        return TrainResult(weights, training_facts(run), self.ended[0] or None)

    def _agree(self) -> None:
        """The run's clock, and whether and why the attempt ends: the same on every rank."""
        told = self.interrupted[0] if self.interrupted else 0
        if self.stop_signal is not None:
            told = max(told, self.stop_signal())
        own_s = self.clock.seconds() if self.run.exchange.ranks.leads else 0.0
        said = (own_s, told, time.monotonic() >= self.ends)
        self.run.elapsed_s, number, over = self.run.exchange.agree(self.run.step, said)
        self.ended = (int(number), bool(over))

    def _commit(self) -> None:
        commit_run(self.run)
        if self.after_commit is not None:
            self.run.writer.settle()
            self.after_commit(self.run)


def budget_until(until: float, elapsed_s: float) -> Budget:
    """The budget of a run, `elapsed_s` of which are spent, that ends at the time `until`.

    At least one more second: a deadline that has passed ends the run, with its result.
    """
    return Budget(seconds=elapsed_s + max(until - time.time(), 1.0))


def compile_run(run: TrainRun, report: Reporter) -> None:
    """Compile the model's blocks for every shape that the run will meet, and change nothing.

    Done before the clock starts: a budget in seconds is for learning.
    """
    import torch._dynamo

    started = time.monotonic()
    torch._dynamo.config.recompile_limit = 64  # shapes and chunk plans of one kind of layer
    if run.config.parallel.zero is not None:
        # code that was compiled for another run of this process relies on weights that start at
        # multiples of 16 bytes, and nothing guards that; ZeRO's lie one after another
        torch._dynamo.reset()
    run.model.compile_blocks(dynamic=False)
    if run.config.parallel.recompute:
        run.model.recompute_blocks()
    if run.config.parallel.zero is not None:
        return  # DeepSpeed counts backward passes: shapes are compiled as they come
    weights = run.config.loss.at(0.0)
    for draw in possible_draws(run.config.data):
        episode = run.feeder.sample(draw, seed=0)
        count = run.config.parallel.micro_batches(episode.inputs.cameras.shape[0])
        run.objective(episode.micro_batches(count)[0], draw.schedule, weights)[0].backward()
    run.model.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    report.say(f"compiled every shape in {time.monotonic() - started:.0f} s")


def take_step(run: TrainRun) -> None:
    """Load an episode, run the training step, remember its result on the device."""
    progress = run.progress
    episode, schedule = run.feeder.episode(run.step, progress)
    weights = run.config.loss.at(progress)
    factor = run.config.rate.factor(run.step, progress)
    result = run.update(episode, schedule, weights, factor)
    run.recent.add(result)
    run.step += 1
    run.tokens += result.tokens


def report_steps(run: TrainRun, curve: Curve | None, report: Reporter) -> None:
    """Fetch the steps since the last report; one line on the screen and one in the curve."""
    count = len(run.recent)
    if not count:
        return
    since = run.last_line.get("elapsed_s", 0.0)
    line = {
        "step": run.step,
        "elapsed_s": round(run.elapsed_s, 3),
        "progress": round(run.progress, 6),
        "tokens": run.tokens,
        "rate": run.config.rate.factor(run.step, run.progress),
        **run.recent.fetch(),
        "ms_per_step": 1000 * (run.elapsed_s - since) / count,
        "feed_s": round(run.feeder.pool.fed_s, 3),
    }
    run.last_line = line
    if curve is not None:
        curve.append(line)
        report.progress(line)


class Clock:
    """Seconds of the run over all its attempts."""

    def __init__(self, before_s: float) -> None:
        self._started = time.monotonic() - before_s

    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._started


@contextmanager
def interruption() -> Iterator[list[int]]:
    """A list that receives the number of the first SIGINT or SIGTERM; a second one is not held."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, note)
    except ValueError:  # not the main thread: whoever owns it handles signals
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
