"""Run directories: continue, refuse, lock, survive. Real processes, real files."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from everview.pipeline.errors import (
    EnvironmentUnfit,
    InputRejected,
    TryAgain,
    UsageError,
    exit_code_of,
)
from everview.pipeline.runs import (
    METRIC_KEYS,
    FrameLog,
    RunDirectory,
    complete_metrics,
    default_run_path,
    peak_rss_mib,
    read_frames,
    read_run,
    redact,
    redact_command,
    replacing,
    write_text,
)


@dataclass(frozen=True)
class Config:
    capture: str = "fox"
    chunk: int = 8
    out: Path = Path("a")
    fresh: bool = False


def test_a_run_records_what_repeats_it(tmp_path):
    with RunDirectory.open(tmp_path / "run", "stream", Config(), ["everview", "stream"]) as run:
        run.note(device={"type": "cpu"}, gauge={"scale": 2.0})
        with run.timed("decode"):
            pass
    record = read_run(tmp_path / "run")
    assert record["status"] == "done"
    assert record["exit_status"] == 0
    assert record["config"] == {"capture": "fox", "chunk": 8}
    assert record["command"] == ["everview", "stream"]
    assert record["code"]["path"] == str(Path(__file__).resolve().parents[3])
    assert record["versions"]["torch"]
    assert "decode" in record["durations_s"]
    assert record["gauge"] == {"scale": 2.0}


def test_an_unfinished_run_is_continued_by_the_same_command(tmp_path):
    with pytest.raises(RuntimeError), RunDirectory.open(tmp_path, "stream", Config()):
        raise RuntimeError("cut")
    assert read_run(tmp_path)["status"] == "failed"
    (tmp_path / "snapshot").mkdir()
    with RunDirectory.open(tmp_path, "stream", Config(out=Path("other"))) as run:
        assert run.resumed
        assert (tmp_path / "snapshot").exists()
    assert [a["exit_status"] for a in read_run(tmp_path)["attempts"]] == [1, 0]


def test_a_finished_run_is_refused_and_fresh_starts_over(tmp_path):
    with RunDirectory.open(tmp_path, "stream", Config()):
        (tmp_path / "views").mkdir()
        (tmp_path / "views" / "a.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="finished run"):
        RunDirectory.open(tmp_path, "stream", Config())
    with RunDirectory.open(tmp_path, "stream", Config(), fresh=True) as run:
        assert not run.resumed
        assert not (tmp_path / "views").exists()


def test_another_configuration_is_refused_and_the_difference_named(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunDirectory.open(tmp_path, "stream", Config()):
        raise KeyboardInterrupt
    assert read_run(tmp_path)["exit_status"] == 130
    with pytest.raises(UsageError, match="chunk: 8 before, 4 now"):
        RunDirectory.open(tmp_path, "stream", Config(chunk=4))
    with pytest.raises(UsageError, match="holds a run of `stream`"):
        RunDirectory.open(tmp_path, "evaluate", Config())


def test_what_may_change_is_changed_by_the_command_that_continues(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunDirectory.open(tmp_path / "r", "train", Config()):
        raise KeyboardInterrupt
    changed = Config(chunk=4)
    path = default_run_path("train", "r", changed, tmp_path, may_change=("chunk",))
    assert path == tmp_path / "train-r"  # nothing is there
    (tmp_path / "r").rename(path)
    assert default_run_path("train", "r", changed, tmp_path) == tmp_path / "train-r-2"
    assert default_run_path("train", "r", changed, tmp_path, may_change=("chunk",)) == path
    with RunDirectory.open(path, "train", changed, may_change=("chunk",)) as run:
        assert run.resumed
        assert run.record["config"]["chunk"] == 4


def test_a_directory_of_other_files_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    for fresh in (False, True):
        with pytest.raises(UsageError, match="holds no run"):
            RunDirectory.open(tmp_path, "stream", Config(), fresh=fresh)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.tex"]
    with pytest.raises(UsageError, match="is a file"):
        RunDirectory.open(tmp_path / "thesis.tex", "stream", Config())


def test_a_second_owner_is_told_who_has_it(tmp_path):
    with (
        RunDirectory.open(tmp_path, "stream", Config()),
        pytest.raises(TryAgain, match=f"process {os.getpid()} on "),
    ):
        RunDirectory.open(tmp_path, "stream", Config())


_HOLD_AND_DIE = """
import os, sys, signal
from everview.pipeline.runs import RunDirectory
run = RunDirectory.open(sys.argv[1], "stream", {"capture": "fox", "chunk": 8}, [])
print("held", flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lock_dies_with_its_owner_even_when_killed(tmp_path):
    command = [sys.executable, "-c", _HOLD_AND_DIE, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(TryAgain, match=str(owner.pid)):
            RunDirectory.open(tmp_path, "stream", Config())
        owner.communicate("x", timeout=60)
    with RunDirectory.open(tmp_path, "stream", Config()) as run:
        assert run.resumed


def _sleep_until(event) -> None:
    event.wait(60)


def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    release = context.Event()
    run = RunDirectory.open(tmp_path, "stream", Config())
    worker = context.Process(target=_sleep_until, args=(release,))
    worker.start()
    try:
        run.finish(exit_status=1)
        with RunDirectory.open(tmp_path, "stream", Config()) as again:
            assert again.resumed
    finally:
        release.set()
        worker.join(30)


def test_a_write_cut_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "run.json"
    write_text(path, "old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("code", "expected", "exit_code"),
    [(errno.ENOSPC, TryAgain, 75), (errno.EROFS, EnvironmentUnfit, 4)],
)
def test_a_full_or_locked_disk_leaves_the_old_file_and_says_what_to_do(
    tmp_path, monkeypatch, code, expected, exit_code
):
    path = tmp_path / "metrics.json"
    write_text(path, "old")

    def full(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(expected, match=r"metrics\.json") as caught:
        write_text(path, "new")
    assert exit_code_of(caught.value) == exit_code
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_secrets_do_not_reach_run_json(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_API_KEY", "hunter2hunter2")
    config = {
        "token": "abc",
        "tokens": 512,
        "nested": {"hf_token": "def"},
        "note": "hunter2hunter2",
        "url": "https://me:pw@host/x?token=ghi&size=3",
    }
    command = ["everview", "train", "--token", "abc", "--api-key=jkl", "--size", "128"]
    with (
        pytest.raises(ValueError, match="hunter2"),
        RunDirectory.open(tmp_path, "train", config, command),
    ):
        raise ValueError("login with hunter2hunter2 failed")
    text = (tmp_path / "run.json").read_text()
    for secret in ("abc", "def", "ghi", "jkl", "pw@", "hunter2"):
        assert secret not in text
    record = json.loads(text)
    assert record["config"]["tokens"] == 512
    assert record["command"][-2:] == ["--size", "128"]
    assert redact("size=3") == "size=3"
    assert redact_command(["--token", "--size", "3"]) == ["--token", "--size", "3"]


def test_a_damaged_run_json_is_rejected_in_one_sentence(tmp_path):
    (tmp_path / "run.json").write_text('{"program": "ever')
    with pytest.raises(InputRejected, match="damaged"):
        RunDirectory.open(tmp_path, "stream", Config())


def test_default_paths_continue_the_unfinished_and_number_the_rest(tmp_path):
    first = default_run_path("stream", "../data/fox", Config(), tmp_path)
    assert first.parent == tmp_path
    with RunDirectory.open(first, "stream", Config()) as run:
        assert default_run_path("stream", "../data/fox", Config(), tmp_path) == first
        assert default_run_path("stream", "../data/fox", Config(chunk=4), tmp_path) != first
        assert run.path == first
    second = default_run_path("stream", "../data/fox", Config(), tmp_path)
    assert second.name == first.name + "-2"


def test_metrics_have_every_name_and_a_reason_for_every_null():
    metrics = complete_metrics({"psnr": 20.0, "ssim": float("nan")}, {"lpips_alex": "no backbone"})
    assert set(METRIC_KEYS) <= set(metrics)
    assert metrics["missing"]["lpips_alex"] == "no backbone"
    assert metrics["ssim"] is None
    assert "nan" in metrics["missing"]["ssim"]
    assert "psnr" not in metrics["missing"]
    nulls = {key for key in METRIC_KEYS if metrics[key] is None}
    assert nulls <= set(metrics["missing"])
    assert set(metrics["floors"]) == {"mean_colour", "nearest_view", "depth_warp"}
    with pytest.raises(ValueError, match="lpips"):
        complete_metrics({"lpips": 0.1})
    assert complete_metrics({"loss": 1.0}, train=True)["step"] is None


def test_frame_rows_survive_a_kill_and_continue_after_the_snapshot(tmp_path):
    log = FrameLog(tmp_path)
    for index in range(6):
        log.add({"id": index, "name": f"f{index}", "latency_ms": 1.5 * index})
        if index == 3:
            mark = log.mark()
    with log.path.open("a") as handle:
        handle.write('{"id": 6, "na')
    resumed = FrameLog(tmp_path)
    assert [row["id"] for row in read_frames(tmp_path)] == list(range(6))
    resumed.go_on_after(mark)
    resumed.add({"id": 4, "latency_ms": 9.0})
    resumed.finish()
    rows = read_frames(tmp_path)
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[4]["latency_ms"] == 9.0
    assert not resumed.path.exists()
    with pytest.raises(ValueError, match="lateness"):
        resumed.add({"id": 5, "lateness": 1})


def test_peak_memory_is_in_mib():
    assert 20 < peak_rss_mib() < 100_000
