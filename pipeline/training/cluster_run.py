"""Training on several workers of a Ray cluster: Ray Train around the one loop.

The driver owns the run directory, starts the workers and says how far they are. The workers run
`loop.train`, one rank each, and commit by the project's own protocol: Ray keeps no checkpoint. When
a worker dies, with its node or alone, its peers fail at the next exchange, Ray starts all again and
they go on from the last commit, `parallel.max_failures` times. When Ray is told that a node will be
taken away, the run commits after the current step and goes on on other nodes, as often as that
happens. Where there is no room for all workers it waits. The run directory must be storage that
every worker sees.

SIGINT and SIGTERM to the driver, or SIGTERM to any worker, end the run after the current step with
a commit. Workers end with their driver, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everview.models.context import Context
from everview.pipeline import errors
from everview.pipeline.cluster import Cluster, ClusterConfig, cluster
from everview.pipeline.errors import EnvironmentUnfit, EverviewError, TryAgain, UsageError
from everview.pipeline.runs.atomic import write_json
from everview.pipeline.runs.metrics import read_json_object
from everview.pipeline.training.checkpoints import last_step
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.exchange import LostRankError, open_exchange
from everview.pipeline.training.loop import TrainResult, interruption, train
from everview.pipeline.training.ranks import Ranks
from everview.pipeline.training.reporting import CURVE, Curve, Reporter, reporter
from everview.pipeline.training.train_run import CHECKPOINTS

POLL_S = 0.5
"""Seconds between the driver's looks at how far the workers are."""
NODE_TAKEN = 30
"""What stands among signals for the notice that a node will be taken away: SIGPWR on Linux."""
_STOP, _RESULT, _LOST, _RAY = ".stop", ".result.json", ".lost.json", ".ray"


@dataclass(frozen=True)
class Attempt:
    """What every worker is given. token: also in the run directory, if it is the driver's.
    number: of the driver's trainers."""

    config: TrainConfig
    out: Path
    token: str
    number: int = 0


def train_on_cluster(
    config: TrainConfig, out: Path, workers: int, where: ClusterConfig | None = None
) -> TrainResult:
    """Train `config` in `out` on `workers` workers, or go on with what is there.

    Uses the cluster of a `cluster` block around it, if there is one. The caller owns the directory.
    Raises what `loop.train` raises; TryAgain when workers were lost
    more than `parallel.max_failures` times, EnvironmentUnfit when they don't see the directory.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}: at least 1")
    shares = Context(0, config.parallel.context)
    Ranks(0, workers, shares).check(config.data.parts)
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    attempt = Attempt(config, out, secrets.token_hex(8))
    # by a driver that was killed
    for left in (*out.glob(f"{_STOP}*"), out / _RESULT, out / _LOST):
        left.unlink(missing_ok=True)
    (out / f"{_STOP}.{attempt.token}").touch()
    try:
        with interruption() as interrupted, cluster(where) as found, reporter() as report:
            attempt = replace(attempt, config=_on_device(config, workers, found))
            step = last_step(out / CHECKPOINTS)
            report.say(
                "no checkpoint yet: starting at step 0"
                if step is None
                else f"continuing at step {step}, if its commit verifies"
            )
            return _run_to_its_end(attempt, workers, interrupted, report)
    finally:
        (out / f"{_STOP}.{attempt.token}").unlink(missing_ok=True)
        for name in (_STOP, _LOST):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / _RAY, ignore_errors=True)


def _on_device(config: TrainConfig, workers: int, found: Cluster) -> TrainConfig:
    """The configuration with its device decided for all workers, by what the cluster has."""
    if config.device == "cuda" and found.gpus < workers:
        raise EnvironmentUnfit(
            f"{workers} workers need a GPU each, but the cluster has {found.gpus:g}; give fewer "
            "--workers or --device cpu"
        )
    if config.device == "auto":
        return replace(config, device="cuda" if found.gpus >= workers else "cpu")
    return config


def _run_to_its_end(
    attempt: Attempt, workers: int, interrupted: list[int], report: Reporter
) -> TrainResult:
    """One trainer after the other, for as long as nodes are taken away."""
    shown = _Shown(attempt.out, report)
    while True:
        _fit(attempt, workers, interrupted, shown)
        result = _result(attempt.out)
        if result.signal != NODE_TAKEN:
            return result
        if interrupted:
            return replace(result, signal=interrupted[0])
        report.say(
            f"a node is to be taken away: step {result.metrics['step']} is committed, and "
            f"{workers} workers go on on the others as soon as there is room"
        )
        attempt = replace(attempt, number=attempt.number + 1)


def _fit(attempt: Attempt, workers: int, interrupted: list[int], shown: _Shown) -> None:
    """Ray Train in a thread: this one takes signals and shows how far the workers are."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            _trainer(attempt, workers).fit()
        except BaseException as error:  # met by the driver's own thread
            failure.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        if interrupted and not (attempt.out / _STOP).exists():
            write_json(attempt.out / _STOP, {"signal": interrupted[0]})
            shown.report.say("stopping after this step; once more ends it without a commit")
        shown.look()
    if failure:
        raise _as_ours(failure[0], attempt.config.parallel.max_failures) from failure[0]


class _Shown:
    """What the workers have left in the run directory, said once."""

    def __init__(self, out: Path, report: Reporter) -> None:
        self.out, self.report = out, report
        self._lines = len(Curve.read(out / CURVE))
        self._lost = ""

    def look(self) -> None:
        """Say what is new."""
        lost = read_json_object(self.out / _LOST)
        if lost and lost["text"] != self._lost:
            self._lost = lost["text"]
            self.report.say(f"lost: {self._lost}; all workers start again there")
        lines = Curve.read(self.out / CURVE)
        for line in lines[min(self._lines, len(lines)) :]:
            if "loss" in line:
                self.report.progress(line)
        self._lines = len(lines)


def _trainer(attempt: Attempt, workers: int) -> Any:
    """Ray's trainer for this attempt; its own files lie in the run directory while it runs."""
    # relative paths of a recipe are the driver's
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    # a busy machine takes long to import what a worker needs
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")
    # a cloud's notice may come half a minute ahead
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer

    from everview.pipeline.training.ray_backend import WorkerSignals

    config = attempt.config
    limits: dict[str, Any] = {
        "max_failures": config.parallel.max_failures,
        "max_preemption_failures": -1,
    }
    on_gpu = config.device == "cuda"
    return TorchTrainer(
        run_worker,
        train_loop_config={"attempt": attempt},
        torch_config=WorkerSignals(
            backend="nccl" if on_gpu else "gloo",
            timeout_s=round(config.parallel.timeout_s * 2),
        ),
        scaling_config=ray_train.ScalingConfig(num_workers=workers, use_gpu=on_gpu),
        run_config=ray_train.RunConfig(
            name=f"{attempt.token}-{attempt.number}",
            storage_path=str(attempt.out / _RAY),
            failure_config=ray_train.FailureConfig(**limits),
        ),
    )


def run_worker(given: dict[str, Any]) -> None:
    """One worker: the loop, as the rank that Ray made it.

    What can't get better by trying again ends the run; a lost rank is Ray's to replace.
    """
    from everview.pipeline.training.ray_backend import received_signal, watch_nodes

    attempt: Attempt = given["attempt"]
    with _peers_let_go():
        exchange = open_exchange(attempt.config.parallel.context, attempt.config.parallel.timeout_s)
        try:
            seen = (attempt.out / f"{_STOP}.{attempt.token}").exists()
            if not all(exchange.gather("sees the run directory", seen)):
                raise EnvironmentUnfit(
                    f"not every worker sees {attempt.out}: --out must be on storage that all "
                    "nodes share"
                )

            taken = watch_nodes()

            def stop_signal() -> int:
                asked = _asked(attempt.out) if exchange.ranks.leads else 0
                return asked or (NODE_TAKEN if taken.is_set() else received_signal())

            done = train(attempt.config, attempt.out, exchange=exchange, stop_signal=stop_signal)
            told: dict[str, Any] = {
                "weights": None if done.weights is None else str(done.weights),
                "metrics": done.metrics,
                "signal": done.signal,
            }
        except LostRankError as error:
            write_json(attempt.out / _LOST, {"text": str(error).partition(";")[0]})
            raise
        except EverviewError as error:
            told = {"error": str(error), "kind": type(error).__name__}
        if exchange.ranks.leads or "error" in told:
            write_json(attempt.out / _RESULT, told)


@contextlib.contextmanager
def _peers_let_go() -> Iterator[None]:
    """Whatever happens here, the other ranks learn at once that this one is gone."""
    from torch import distributed

    try:
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _asked(out: Path) -> int:
    """The signal that the driver passes on, or 0."""
    if not (out / _STOP).exists():
        return 0
    told = read_json_object(out / _STOP)
    return int(told["signal"]) if told else int(signal.SIGTERM)


def _result(out: Path) -> TrainResult:
    """What the first rank left of the attempt."""
    told = read_json_object(out / _RESULT)
    (out / _RESULT).unlink(missing_ok=True)
    if told is None:
        raise TryAgain(f"the workers ended without a result in {out}; the same command continues")
    if "error" in told:
        kind = getattr(errors, told["kind"], EverviewError)
        raise kind(told["error"])
    weights = None if told["weights"] is None else Path(told["weights"])
    return TrainResult(weights, told["metrics"], told["signal"])


def _as_ours(error: BaseException, max_failures: int) -> BaseException:
    """What Ray Train raises, as one sentence."""
    not_started = getattr(error, "controller_failure", None)
    if not_started is not None:
        return TryAgain(
            f"the workers could not be started: {_last_line(not_started)}; the same command "
            "continues from the last checkpoint"
        )
    failures = getattr(error, "worker_failures", None)
    if not failures:
        return error
    causes = [f"rank {rank}: {_last_line(cause)}" for rank, cause in sorted(failures.items())]
    return TryAgain(
        f"workers failed more than {max_failures} times ({'; '.join(causes)}); the same command "
        "continues from the last checkpoint"
    )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
