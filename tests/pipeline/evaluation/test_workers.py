"""Workers of a Ray cluster judge scenes to the same numbers, die alone, and end in time."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest
import torch

from everview.models.weight_files import save_weights
from everview.pipeline.cluster import ClusterConfig
from everview.pipeline.errors import EverviewError, UsageError
from everview.pipeline.evaluation import run as evaluation_run
from everview.pipeline.evaluation import spreading
from everview.pipeline.evaluation.config import EvaluationConfig
from everview.pipeline.evaluation.run import evaluate
from everview.pipeline.evaluation.workers import SceneWorker, Task
from everview.pipeline.runs import read_frames, read_run
from tests.pipeline.evaluation.conftest import FolderProtocol, FolderScene, write_wall

pytestmark = pytest.mark.ray

TIMED = {"frames_per_s", "latency_ms_p50", "latency_ms_p95", "latency_ms", "duration_s"}


@pytest.fixture
def weights(model, tmp_path) -> str:
    save_weights(model, tmp_path / "weights", "# untrained\n")
    return str(tmp_path / "weights")


@pytest.fixture
def walls(tmp_path, monkeypatch) -> FolderProtocol:
    """A protocol of three captures, one of which isn't there."""
    names = ("first", "absent", "last")
    for count, name in ((17, "first"), (12, "last")):
        write_wall(tmp_path / name, count)
    protocol = FolderProtocol(
        tuple(FolderScene(str(tmp_path / name), name) for name in names), (1, 2)
    )
    monkeypatch.setattr(evaluation_run, "PROTOCOLS", {"procedural": lambda count, size: protocol})
    return protocol


@pytest.fixture
def one_thread():
    """Rounding depends on the number of threads; a worker of two has one of one or two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class HandOuts(logging.Handler):
    """Sees which process is given which scene, at the moment it is given it."""

    def __init__(self, then: Callable[[int, str], None]) -> None:
        super().__init__(logging.DEBUG)
        self.seen: list[tuple[int, str]] = []
        self.then = then

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("worker %d on %s judges"):
            pid, _, name = record.args  # type: ignore[misc]
            self.seen.append((pid, name))  # type: ignore[arg-type]
            self.then(pid, name)  # type: ignore[arg-type]


@pytest.fixture
def hand_outs(monkeypatch) -> Iterator[HandOuts]:
    handler = HandOuts(lambda pid, name: None)
    before = spreading.log.level
    spreading.log.addHandler(handler)
    spreading.log.setLevel(logging.DEBUG)
    yield handler
    spreading.log.removeHandler(handler)
    spreading.log.setLevel(before)


def untimed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]


@pytest.mark.slow
def test_two_workers_give_bit_for_bit_what_one_gives(
    local_ray, walls, weights, tmp_path, one_thread, hand_outs
):
    config = EvaluationConfig(protocol="procedural", scenes=3, size=32, weights=weights)
    alone = evaluate(config, tmp_path / "one")
    assert hand_outs.seen == []
    shared = evaluate(config, tmp_path / "two", workers=2)
    assert sorted(name for _, name in hand_outs.seen) == ["absent", "first", "last"]
    assert untimed(shared.metrics["scenes"]) == untimed(alone.metrics["scenes"])
    assert [scene["name"] for scene in shared.metrics["scenes"]] == ["first", "last", "absent"]
    assert untimed(read_frames(shared.run)) == untimed(read_frames(alone.run))
    for key in ("psnr", "ssim", "laplacian_ratio", "floors", "memory_alone"):
        assert shared.metrics[key] == alone.metrics[key]
    assert shared.metrics["details"]["gaps"] == alone.metrics["details"]["gaps"]
    assert shared.failed == alone.failed
    assert list(shared.failed) == ["absent"]
    for folder in ("views", "depth"):
        pictures = [
            {path.name: path.read_bytes() for path in (done.run / folder).iterdir()}
            for done in (alone, shared)
        ]
        assert pictures[0] == pictures[1]
    records = [read_run(done.run) or {} for done in (alone, shared)]
    for key in ("config", "device", "backends", "weights", "threads_per_worker"):
        assert records[0][key] == records[1][key]


@pytest.mark.slow
def test_a_killed_worker_costs_one_more_try_and_a_second_death_names_the_scene(
    local_ray, walls, weights, tmp_path, hand_outs
):
    times: Counter[str] = Counter()

    def kill(pid: int, name: str) -> None:
        times[name] += 1
        if name == "last" or (name == "first" and times[name] == 1):
            os.kill(pid, signal.SIGKILL)

    hand_outs.then = kill
    config = EvaluationConfig(protocol="procedural", scenes=3, size=32, weights=weights)
    done = evaluate(config, tmp_path / "run", workers=2)
    assert times == {"first": 2, "absent": 1, "last": 2}
    assert len({pid for pid, name in hand_outs.seen if name == "last"}) == 2
    assert sorted(done.failed) == ["absent", "last"]
    assert done.failed["last"] == "last: 2 workers died while judging it"
    assert done.metrics["scenes"][0]["name"] == "first"
    kept = (done.run / "scenes" / "first.json").stat().st_mtime_ns

    # the same command judges what is left, and nothing else
    times.clear()
    hand_outs.then = lambda pid, name: times.update([name])
    write_wall(tmp_path / "absent", 12)
    again = evaluate(config, tmp_path / "run", workers=2)
    assert times == {"absent": 1, "last": 1}
    assert again.exit_code == 0
    assert len(again.metrics["scenes"]) == 3
    assert (again.run / "scenes" / "first.json").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_is_recorded(local_ray, walls, weights, tmp_path, hand_outs):
    def interrupt(pid: int, name: str) -> None:
        os.kill(pid, signal.SIGINT)  # a terminal tells the whole group: a worker doesn't care
        signal.raise_signal(signal.SIGINT)

    hand_outs.then = interrupt
    config = EvaluationConfig(protocol="procedural", scenes=3, size=32, weights=weights)
    # a shell starts what runs in its background with SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            evaluate(config, tmp_path / "run", workers=2)
    finally:
        signal.signal(signal.SIGINT, before)
    record = read_run(tmp_path / "run") or {}
    assert (record["status"], record["exit_status"]) == ("interrupted", 130)
    workers = [psutil.Process(pid) for pid, _ in hand_outs.seen if psutil.pid_exists(pid)]
    assert psutil.wait_procs(workers, timeout=30)[1] == []


@pytest.mark.slow
def test_a_worker_that_cannot_start_ends_the_run_with_its_reason(
    local_ray, walls, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(Task, "to_json", lambda task: "{}")
    config = EvaluationConfig(protocol="procedural", scenes=3, size=32, weights=weights)
    with pytest.raises(EverviewError, match=r"a worker can't start: .*config"):
        evaluate(config, tmp_path / "run", workers=2)
    assert (read_run(tmp_path / "run") or {})["status"] == "failed"


def test_workers_that_cannot_be_had_are_refused_in_one_sentence(model, tmp_path):
    config = EvaluationConfig(protocol="procedural", scenes=2, size=32)
    with pytest.raises(UsageError, match="workers load their weights"):
        evaluate(config, tmp_path / "run", model=model, workers=2)
    with pytest.raises(UsageError, match="--workers 0"):
        evaluate(config, tmp_path / "run", model=model, workers=0)
    with pytest.raises(UsageError, match="one worker, which is this process"):
        evaluate(config, tmp_path / "run", where=ClusterConfig(address="auto"))
    with_gpu = EvaluationConfig(protocol="procedural", scenes=2, size=32, device="cuda:1")
    with pytest.raises(UsageError, match="use --device cuda"):
        evaluate(with_gpu, tmp_path / "run", workers=2)
    assert not (tmp_path / "run").exists()


def test_a_task_survives_its_way_to_a_worker_and_a_broken_one_is_a_sentence():
    config = EvaluationConfig(protocol="procedural", scenes=2, size=32, chunks=(1, 2))
    task = Task(config, (1, 2), 2, 1)
    assert Task.from_json(task.to_json()) == task
    assert "error" in json.loads(SceneWorker().begin("{}", {}))
