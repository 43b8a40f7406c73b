"""Several workers judge the same scenes to the same numbers, and end with their parent."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from everview.models.weight_files import save_weights
from everview.pipeline.errors import EverviewError, UsageError
from everview.pipeline.evaluation import run as evaluation_run
from everview.pipeline.evaluation.config import EvaluationConfig
from everview.pipeline.evaluation.run import evaluate
from everview.pipeline.runs import read_frames, read_run
from tests.pipeline.evaluation.conftest import FolderProtocol, FolderScene, write_wall

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


def untimed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]


@pytest.fixture
def one_thread():
    """Rounding depends on the number of threads; a worker of two has one of one or two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_workers_give_bit_for_bit_what_one_gives(walls, weights, tmp_path, one_thread):
    config = EvaluationConfig(protocol="procedural", scenes=3, size=32, weights=weights)
    alone = evaluate(config, tmp_path / "one")
    shared = evaluate(config, tmp_path / "two", workers=2)
    assert untimed(shared.metrics["scenes"]) == untimed(alone.metrics["scenes"])
    assert [scene["name"] for scene in shared.metrics["scenes"]] == ["first", "last", "absent"]
    assert untimed(read_frames(shared.run)) == untimed(read_frames(alone.run))
    for key in ("psnr", "ssim", "laplacian_ratio", "floors", "memory_alone"):
        assert shared.metrics[key] == alone.metrics[key]
    assert shared.metrics["details"]["gaps"] == alone.metrics["details"]["gaps"]
    assert shared.failed == alone.failed
    assert list(shared.failed) == ["absent"]
    pictures = [sorted(p.name for p in (r.run / "views").rglob("*.png")) for r in (alone, shared)]
    assert pictures[0] == pictures[1]
    assert read_run(shared.run)["config"] == read_run(alone.run)["config"]


def test_a_worker_that_dies_is_named_and_what_was_judged_is_kept(walls, weights, tmp_path):
    config = EvaluationConfig(protocol="procedural", scenes=3, size=32, weights=weights)

    def kill_one() -> None:
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.05)
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with pytest.raises(EverviewError, match=r"worker \d of 2 died \(SIGKILL\) while"):
        evaluate(config, tmp_path / "run", workers=2)
    assert multiprocessing.active_children() == []
    assert read_run(tmp_path / "run")["status"] == "failed"
    assert len(evaluate(config, tmp_path / "run").metrics["scenes"]) == 3


def test_workers_want_weights_that_they_can_load(model, tmp_path):
    config = EvaluationConfig(protocol="procedural", scenes=2, size=32)
    with pytest.raises(UsageError, match="workers load their weights"):
        evaluate(config, tmp_path / "run", model=model, workers=2)
    with pytest.raises(UsageError, match="--workers 0"):
        evaluate(config, tmp_path / "run", model=model, workers=0)


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if place.name.isdigit() and int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(place.name))
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_workers_end_with_the_program(weights, tmp_path, number, code):
    """Ctrl-C reaches the whole group of a terminal; a kill reaches the parent alone."""
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from everview.workflows.cli.main import main; main()"
    )
    words = ["evaluate", "--protocol", "procedural", "--scenes", "4", "--size", "64", "--workers",
             "2", "--weights", weights, "--out", str(tmp_path / "run"), "--json"]  # fmt: skip
    running = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with running:
        workers: list[int] = []
        deadline = time.monotonic() + 90
        while len(workers) < 2 and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.1)
            workers = [
                pid for pid in children(running.pid)
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]  # fmt: skip
        assert len(workers) == 2
        if number == signal.SIGINT:
            os.killpg(running.pid, number)
        else:
            os.kill(running.pid, number)
        out, said = running.communicate(timeout=60)
    assert running.returncode == code
    for _ in range(200):
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert json.loads(out)["exit_status"] == 130
