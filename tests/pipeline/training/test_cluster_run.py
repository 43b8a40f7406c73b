"""A run on workers of a cluster ends as it would have alone, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from everview.pipeline.errors import UsageError
from everview.pipeline.training.checkpoints import newest
from everview.pipeline.training.cluster_run import train_on_cluster
from everview.pipeline.training.config import TrainConfig
from everview.pipeline.training.exchange import open_exchange
from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.local_ranks import run_ranks
from everview.pipeline.training.loop import train
from everview.pipeline.training.reporting import CURVE, Curve
from everview.pipeline.training.train_run import CHECKPOINTS
from everview.workflows.recipes import find_recipe
from tests.pipeline.training.test_ranks import losses, weights

pytestmark = pytest.mark.ray

STEPS = 40
DEADLINE_S = 240.0


def small_run(steps: int = STEPS) -> TrainConfig:
    """`tiny` with few pixels, in steps, with commits in their midst."""
    tiny = find_recipe("tiny")()
    return replace(
        tiny,
        budget=Budget(steps=steps),
        data=replace(tiny.data, size=16),
        parallel=replace(tiny.parallel, timeout_s=30.0),
        device="cpu",
        commit_every_s=0.3,
        report_every=1,
    )


def workers() -> list[psutil.Process]:
    """The training workers of this process's own cluster."""
    mine = psutil.Process().children(recursive=True)
    return [process for process in mine if "TrainWorker" in " ".join(process.cmdline()[:1])]


def once(condition: Callable[[], bool], action: Callable[[], None]) -> threading.Thread:
    """`action` as soon as `condition` holds, from a thread that gives up at the deadline."""

    def watch() -> None:
        ends = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while time.monotonic() < ends:
            if condition():
                action()
                return
            pause.wait(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def step_of(out: Path) -> int:
    return max((line["step"] for line in Curve.read(out / CURVE)), default=0)


def two_ranks(rank: int, size: int, out: Path) -> None:
    """The run, or what is left of it, by processes that nobody watches or restarts."""
    train(small_run(), out, exchange=open_exchange(1, 60.0))


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    """What two ranks make of the run without a cluster and without faults."""
    folder = tmp_path_factory.mktemp("untouched")
    run_ranks(two_ranks, 2, folder)
    return folder


def assert_ended_like(untouched: Path, out: Path) -> None:
    """Every step's loss and every final weight, bit for bit: as many ranks add in one order."""
    expected, found = losses(untouched), losses(out)
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in found] == [line["loss"] for line in expected]
    ours, theirs = weights(out), weights(untouched)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_run_whose_worker_is_killed_ends_like_one_that_never_was(untouched, tmp_path):
    """SIGKILL to one of two workers after step 15: no step is missing, none is different."""
    killed: list[int] = []

    def kill() -> None:
        worker = workers()[-1]
        worker.kill()
        killed.append(worker.pid)

    watcher = once(lambda: step_of(tmp_path) >= 15, kill)
    result = train_on_cluster(small_run(), tmp_path, 2)
    watcher.join(1)
    assert len(killed) == 1
    assert result.weights is not None
    assert_ended_like(untouched, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.long
def test_sigterm_to_a_worker_saves_and_the_run_goes_on(untouched, tmp_path):
    """The run ends unfinished with its last step committed; what is left needs no cluster."""
    watcher = once(lambda: step_of(tmp_path) >= 10, lambda: workers()[-1].terminate())
    result = train_on_cluster(small_run(), tmp_path, 2)
    watcher.join(1)
    assert result.signal == signal.SIGTERM
    assert result.weights is None
    committed = newest(tmp_path / CHECKPOINTS, pytest.fail)
    assert committed is not None
    assert committed.step == result.metrics["step"] == step_of(tmp_path) < STEPS
    run_ranks(two_ranks, 2, tmp_path)
    assert_ended_like(untouched, tmp_path)


def test_a_number_of_workers_that_the_batch_cannot_feed_is_refused_with_those_it_can(tmp_path):
    """Before anything is started."""
    with pytest.raises(UsageError, match="possible are 1, 2, 4"):
        train_on_cluster(replace(small_run(), budget=Budget(steps=1)), tmp_path, 3)


def test_ranks_meet_at_the_address_by_which_the_cluster_knows_their_node(monkeypatch):
    """Not at what the host's name stands for: where that is loopback, ranks on two hosts never
    met (tried in two network namespaces). What the user sets stays."""
    import ray

    from everview.pipeline.training.ray_backend import meet_at_node_address

    loopback = next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == "127.0.0.1" for address in addresses)
    )
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    meet_at_node_address()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    meet_at_node_address()
    assert os.environ["GLOO_SOCKET_IFNAME"] == loopback
