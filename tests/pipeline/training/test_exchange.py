"""Ranks agree, gather, and name whoever doesn't come."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from everview.pipeline.errors import TryAgain
from everview.pipeline.training.checkpoint_writer import CheckpointWriter
from everview.pipeline.training.checkpoints import newest
from everview.pipeline.training.exchange import Exchange, LostRankError, open_exchange
from everview.pipeline.training.local_ranks import run_ranks
from everview.pipeline.training.ranks import Ranks

PATIENCE_S = 3.0


def hang_and_fail(rank: int, size: int, folder: Path) -> None:
    """Rank 1 doesn't come to step 1, until rank 0 has said what that looks like; then it fails to
    write its part of a checkpoint."""
    exchange = open_exchange(1, PATIENCE_S)
    assert exchange.agree(0, [rank, 5.0 - rank]) == [1.0, 5.0]
    assert exchange.gather("names", f"r{rank}") == ["r0", "r1"]
    if rank == 1:
        exchange.store.wait(["said"], timedelta(seconds=60))
    else:
        with pytest.raises(LostRankError) as lost:
            exchange.agree(1, [0.0])
        (folder / "hang").write_text(str(lost.value))
        exchange.store.set("said", "yes")

    again = open_exchange(1, 30.0)
    target = folder / "checkpoints" if rank == 0 else folder / "file"  # no folder can be made there
    writer = CheckpointWriter(target, again, keep=3, warn=pytest.fail)
    writer.submit(7, {"model": {f"part{rank}": torch.ones(2)}}, {})
    with pytest.raises(TryAgain if rank == 0 else OSError) as failed:
        writer.settle()
    (folder / f"writer{rank}").write_text(str(failed.value))
    writer = CheckpointWriter(folder / "checkpoints", open_exchange(1, 30.0), 3, pytest.fail)
    writer.submit(8, {"model": {f"part{rank}": torch.full((2,), float(rank))}}, {"by": rank})
    writer.settle()
    again.gather("done", True)


@pytest.mark.slow
def test_a_hung_rank_is_named_and_a_rank_that_cannot_write_spoils_only_its_commit(tmp_path):
    (tmp_path / "file").write_text("")
    run_ranks(hang_and_fail, 2, tmp_path)
    said = (tmp_path / "hang").read_text()
    assert "rank 1 of 2 never got past step 0" in said
    assert "the same command continues" in said
    assert "rank 1 could not write the checkpoint of step 7" in (tmp_path / "writer0").read_text()
    found = newest(tmp_path / "checkpoints", pytest.fail)
    assert found is not None
    assert found.step == 8
    assert {name: t.tolist() for name, t in found.tensors["model"].items()} == {
        "part0": [0.0, 0.0],
        "part1": [1.0, 1.0],
    }
    assert found.facts == {"by": 0}


KEEPER = """
import sys, time
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
store.set("reached/0", "4"); store.set("reached/1", "4")
print(store.port, flush=True)
time.sleep(120)
"""


@pytest.fixture(scope="module")
def hanging_keeper() -> Iterator[Exchange]:
    """Rank 1 of two, whose store is kept by a rank 0 that has just stopped for ever."""
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER], stdout=subprocess.PIPE, text=True)
    try:
        assert keeper.stdout is not None
        store = TCPStore("127.0.0.1", int(keeper.stdout.readline()), is_master=False)
        store.set_timeout(timedelta(seconds=1))
        exchange = Exchange(Ranks(1, 2), store, None, 1.0)
        exchange.tell("awake", True)
        assert exchange.hear("awake", 1) is True
        keeper.send_signal(signal.SIGSTOP)
        yield exchange
    finally:
        keeper.kill()  # stopped or not
        keeper.wait()


def test_a_first_rank_that_hangs_with_the_store_is_named(hanging_keeper):
    with (
        pytest.raises(LostRankError, match="rank 0 of 2, which keeps the ranks' store"),
        hanging_keeper.naming_the_lost(),
    ):
        raise RuntimeError("gloo: Timed out waiting 1000ms for recv operation")


def test_what_a_rank_says_is_not_waited_for_in_a_store_that_hangs(hanging_keeper):
    with pytest.raises(LostRankError, match="rank 0 of 2 said nothing about resume within 1 s"):
        hanging_keeper.hear("resume", 0)


def test_alone_everything_is_what_one_says():
    exchange = Exchange()
    assert exchange.agree(3, [1.0, 2.0]) == [1.0, 2.0]
    assert exchange.gather("names", {"a": 1}) == [{"a": 1}]


def test_other_errors_of_a_step_are_not_blamed_on_ranks():
    with pytest.raises(RuntimeError, match="shape"), Exchange().naming_the_lost():
        raise RuntimeError("shape mismatch")
