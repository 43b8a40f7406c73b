"""The whole job: a capture on disk to a run directory, killed, interrupted, continued."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from everview.datasets.errors import DataError
from everview.pipeline.errors import UsageError
from everview.pipeline.runs import read_frames
from everview.pipeline.streaming.chunks import read_chunks
from everview.pipeline.streaming.snapshots import FOLDER, load_snapshot
from everview.pipeline.streaming.stream import stream_capture
from everview.pipeline.streaming.trajectory import NAMES_NAME, ROWS_NAME

pytestmark = pytest.mark.usefixtures("without_lpips")

_KILLED = """
import json, sys
from pathlib import Path
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.stream import stream_capture
from tests.pipeline.streaming.test_stream import Signaller

policies = StreamPolicies(chunk_frames=4, snapshot_every_s=0.0)
config = StreamConfig(policies=policies, **json.loads(sys.argv[1]))
stream_capture(config, Path(sys.argv[2]), progress=Signaller(9, int(sys.argv[3])))
"""


class Signaller:
    """Sends this process a signal, once or more, after frame `at` of a stage."""

    def __init__(self, number, at, times=1, stage="stream"):
        self.number, self.at, self.times, self.said = number, at, times, []
        self.stage = stage

    def step(self, stage, done, total):
        if stage == self.stage and done == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)

    def say(self, line):
        self.said.append(line)


def run_killed(config, out, at):
    """Stream in a process of its own that kills itself after frame `at`."""
    values = {
        name: getattr(config, name)
        for name in ("capture", "weights", "size", "hold_out", "video_frames", "review_views",
                     "fusion_views", "device")
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", _KILLED, json.dumps(values), str(out), str(at)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def last_state(run):
    commit = max(path for path in (run / FOLDER).iterdir() if path.name[0].isdigit())
    return (commit / "state.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody disturbed, made once."""
    return tmp_path_factory.mktemp("runs") / "whole"


def undisturbed(config, whole):
    if not whole.exists():
        stream_capture(config, whole)
    return whole


def test_a_stream_leaves_the_whole_run_directory(config, tmp_path):
    result = stream_capture(replace(config, fusion_views=4, mesh=False), tmp_path / "run")
    names = {path.name for path in result.run.iterdir()}
    assert names >= {
        "run.json", "metrics.json", "frames.parquet", "snapshot", "views", "depth",
        "novel_views.mp4", "points.ply", "trajectory_tum.txt", "transforms.json", "report.html",
    }  # fmt: skip
    assert result.exit_status == 0
    record = json.loads((result.run / "run.json").read_text())
    assert record["status"] == "done"
    assert record["gauge"]["rule"] == "focus distance"
    assert record["stream"]["chunks"] == {"count": 4, "frames": 16, "closed": {"full": 4}}
    assert [chunk["frames"] for chunk in read_chunks(result.run)] == [4, 4, 4, 4]
    metrics = json.loads((result.run / "metrics.json").read_text())
    assert metrics["psnr"] > 0
    assert metrics["state_mib"] > 0
    assert metrics["memory_alone"]["psnr"] > 0
    assert metrics["missing"]["mesh.ply"] == "not asked for"
    assert len(metrics["details"]["retention_psnr"]) == 4
    rows = read_frames(result.run)
    held_out = [row["id"] for row in rows if row["role"] == "held_out"]
    assert held_out == [0, 5, 10, 15, 20]
    assert sorted(row["id"] for row in rows) == list(range(21))


def test_killed_and_resumed_equals_never_killed(config, whole, tmp_path):
    """SIGKILL in the middle of a chunk, in another process; the same command goes on."""
    undisturbed(config, whole)
    out = tmp_path / "run"
    killed = run_killed(config, out, at=12)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    stream_capture(config, out)
    assert last_state(out) == last_state(whole)
    left, right = (
        load_file(max((run / FOLDER).iterdir()) / "frames.safetensors") for run in (out, whole)
    )
    assert all(left[key].equal(right[key]) for key in right if key != "pending.numbers")
    for name in (ROWS_NAME, NAMES_NAME, "chunks.jsonl", "trajectory_tum.txt", "transforms.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    ids = [(row["id"], row["chunk"], row["residual"]) for row in read_frames(out)]
    assert ids == [(row["id"], row["chunk"], row["residual"]) for row in read_frames(whole)]
    left, right = (json.loads((run / "metrics.json").read_text()) for run in (out, whole))
    assert left["floors"] == right["floors"]
    video = "novel_views.mp4"
    assert (out / video).read_bytes() == (whole / video).read_bytes()


def test_ctrl_c_once_exports_and_the_same_command_goes_on_as_if_never_stopped(
    config, whole, tmp_path
):
    undisturbed(config, whole)
    out = tmp_path / "run"
    signaller = Signaller(signal.SIGINT, at=12)
    stopped = stream_capture(config, out, progress=signaller)
    assert stopped.exit_status == 130
    assert any("Ctrl-C again stops at once" in line for line in signaller.said)
    assert (out / "novel_views.mp4").exists()
    assert (out / "report.html").exists()
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    # 12 frames seen, 3 of them held out: two chunks of 4 and one frame exported with them
    assert len([r for r in read_frames(out) if r["role"] == "input"]) == 9
    stream_capture(config, out)
    assert last_state(out) == last_state(whole)
    assert len(read_frames(out)) == 21


def test_ctrl_c_twice_stops_at_once(config, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        stream_capture(config, out, progress=Signaller(signal.SIGINT, at=12, times=2))
    assert not (out / "novel_views.mp4").exists()
    assert json.loads((out / "run.json").read_text())["exit_status"] == 130


def test_sigterm_keeps_the_frames_so_far_and_exits_with_143(config, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as left:
        stream_capture(config, out, progress=Signaller(signal.SIGTERM, at=12))
    assert left.value.code == 143
    snapshot = load_snapshot(out)
    assert snapshot.facts["num_frames"] == 12
    assert len(snapshot.frames["pending.numbers"]) == 1


def test_sigterm_ends_the_exports_at_once_and_the_same_command_makes_them(config, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as left:
        stream_capture(config, out, progress=Signaller(signal.SIGTERM, at=1, stage="compare"))
    assert left.value.code == 143
    assert not (out / "novel_views.mp4").exists()
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    assert stream_capture(config, out).exit_status == 0
    assert len(read_frames(out)) == 21


def test_a_finished_run_is_refused_and_left_as_it_was(config, whole):
    undisturbed(config, whole)
    before = (whole / "run.json").read_bytes()
    with pytest.raises(UsageError, match="--fresh"):
        stream_capture(config, whole)
    assert (whole / "run.json").read_bytes() == before


def test_a_capture_without_poses_is_refused_before_anything_is_written(config, tmp_path):
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 40), (90, 20, 20)).save(folder / "a.png")
    with pytest.raises(DataError, match="no camera poses"):
        stream_capture(replace(config, capture=str(folder)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_max_frames_ends_the_stream_there(config, tmp_path):
    result = stream_capture(replace(config, max_frames=9), tmp_path / "run")
    rows = read_frames(result.run)
    assert sorted(row["id"] for row in rows) == list(range(9))
