"""A node that is announced to be taken away costs a run no step and none of its failures."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from everview.pipeline.cluster.tokens import require_tokens
from everview.pipeline.training.cluster_run import train_on_cluster
from everview.pipeline.training.loop import TrainResult
from everview.pipeline.training.train_run import CHECKPOINTS
from tests.pipeline.training.test_cluster_run import (
    DEADLINE_S,
    once,
    small_run,
    step_of,
)
from tests.pipeline.training.test_ranks import losses

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.slow]

STEPS = 100
"""Enough for the notice to come in their midst, through a command that takes seconds to start."""
NODE = {"object_store_memory": 100_000_000}


@dataclass
class Nodes:
    """Nodes of a cluster, all on this machine. leaving: one of the two that can train."""

    made: Any
    leaving: Any

    def announce(self) -> None:
        """Tell Ray that `leaving` will be taken away in ten minutes, as whoever gets a cloud's
        notice does; then a node in its place comes."""
        words = [str(Path(sys.executable).with_name("ray")), "drain-node",
                 f"--address={self.made.address}", "--node-id", self.leaving.node_id,
                 "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
                 "--deadline-remaining-seconds", "600"]  # fmt: skip
        subprocess.run(words, check=True, timeout=120)
        started(self.made, num_cpus=1)


@pytest.fixture
def nodes(no_ray: None) -> Iterator[Nodes]:
    """A head that trains nothing and two nodes with room for one rank each."""
    import ray
    from ray.cluster_utils import Cluster

    require_tokens(may_make_one=True)
    made = Cluster()
    try:
        started(made, num_cpus=0, include_dashboard=False)
        leaving = started(made, num_cpus=1)
        started(made, num_cpus=1)
        ray.init(address=made.address, log_to_driver=False)
        yield Nodes(made, leaving)
    finally:
        ray.shutdown()
        made.shutdown()


def started(made: Any, **settings: Any) -> Any:
    """A node, tried twice: Ray gives it half a minute, too little on a machine that is busy."""
    try:
        return made.add_node(**NODE, **settings)
    except Exception:
        return made.add_node(**NODE, **settings)


def test_a_run_commits_and_moves_before_its_node_is_taken(nodes, tmp_path, capfd):
    """No commit but the notice's and the last, no failure allowed, and no step is missing."""
    out = tmp_path / "run"
    config = small_run(STEPS)
    no_failure = replace(config.parallel, max_failures=0)
    config = replace(config, commit_every_s=1e9, parallel=no_failure)
    found: list[TrainResult] = []
    training = threading.Thread(
        target=lambda: found.append(train_on_cluster(config, out, 2)), daemon=True
    )
    training.start()
    begun = once(lambda: step_of(out) >= 5, lambda: None)
    begun.join(DEADLINE_S)
    nodes.announce()  # from the main thread: a node that is started here takes signals
    training.join(2 * DEADLINE_S)
    (result,) = found
    assert result.weights is not None
    assert "a node is to be taken away" in capfd.readouterr().err
    steps = sorted(int(path.name[5:13]) for path in (out / CHECKPOINTS).glob("step-*"))
    assert len(steps) == 2
    assert 5 <= steps[0] < steps[1] == STEPS
    assert [line["step"] for line in losses(out)] == list(range(1, STEPS + 1))
