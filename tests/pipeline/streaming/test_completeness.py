"""A run directory that is said to be complete is; one that lost something says what."""

import json
import shutil
from dataclasses import replace

import pytest

from everview.datasets.opening import open_capture
from everview.datasets.procedural.capture import ProceduralCapture
from everview.pipeline.errors import InputRejected
from everview.pipeline.runs import read_frames, write_frames
from everview.pipeline.streaming.completeness import shortcomings
from everview.pipeline.streaming.preparing import read_again
from everview.pipeline.streaming.snapshots import newest_commit
from everview.pipeline.streaming.stream import stream_capture

pytestmark = pytest.mark.usefixtures("without_lpips")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "whole"


@pytest.fixture
def run(config, kept, tmp_path):
    """A copy of a finished run, to be damaged."""
    if not kept.exists():
        stream_capture(replace(config, fusion_views=4, mesh=False), kept)
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


def rewritten(file, change):
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def first(run, pattern):
    return sorted(run.glob(pattern))[0]


def cut(file):
    file.write_bytes(file.read_bytes()[:-200])


def test_a_finished_stream_lacks_nothing(run):
    assert shortcomings(run) == []


def aged(run):
    """The only snapshot that is left is of a moment before the end."""
    newest = newest_commit(run)
    newest.rename(run / "kept")
    shutil.rmtree(newest.parent)
    newest.parent.mkdir()
    (run / "kept").rename(newest.parent / "00000001-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "metrics.json").unlink(), "metrics.json is not there"),
        (
            lambda run: rewritten(run / "metrics.json", lambda m: m["missing"].clear()),
            "neither lpips_alex nor a reason",
        ),
        (
            lambda run: rewritten(run / "run.json", lambda r: r.update(status="interrupted")),
            "not finished: interrupted",
        ),
        (
            lambda run: rewritten(
                run / "run.json", lambda r: r["stream"]["counts"].update(received=99)
            ),
            "99 frames came, and what became of 21 is said",
        ),
        (lambda run: write_frames(run, read_frames(run)[2:]), "frames.parquet has 15"),
        (lambda run: (run / "chunks.jsonl").write_text(""), "chunks.jsonl 0"),
        (lambda run: cut(newest_commit(run) / "state.safetensors"), "its manifest says"),
        (lambda run: shutil.rmtree(run / "snapshot"), "no snapshot to render from"),
        (aged, "not of the stream's end"),
        (lambda run: first(run, "views/*_memory.png").unlink(), "_memory.png"),
        (lambda run: cut(first(run, "depth/*.npz")), "pictures: "),
        (lambda run: cut(run / "points.ply"), "geometry: "),
        (lambda run: (run / "novel_views.mp4").write_bytes(b""), "video: "),
        (lambda run: cut(run / "report.html"), "report.html is not whole"),
        (lambda run: (run / "trajectory_tum.txt").write_text(""), "trajectory_tum.txt 0"),
        (lambda run: (run / "frames.jsonl").write_text(""), "frames.jsonl was left behind"),
    ],
)
def test_what_is_lost_or_damaged_afterwards_is_named(run, damage, said):
    damage(run)
    assert said in "; ".join(shortcomings(run))


def test_nothing_is_changed_by_looking(run):
    cut(newest_commit(run) / "state.safetensors")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    shortcomings(run)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_another_verbs_run_and_no_run_at_all_are_refused(run, tmp_path):
    rewritten(run / "run.json", lambda record: record.update(verb="train"))
    for path in (run, tmp_path / "nowhere"):
        with pytest.raises(InputRejected, match="holds no stream"):
            shortcomings(path)


def test_of_a_long_procedural_stream_only_what_is_compared_is_drawn_again(monkeypatch):
    drawn = []
    render = ProceduralCapture._rendered
    monkeypatch.setattr(
        ProceduralCapture, "_rendered", lambda self, i: drawn.append(i) or render(self, i)
    )
    capture = open_capture("procedural://orbit?frames=10000&size=8")
    assert [frame.index for frame in read_again(capture, {9999, 5})] == [5, 9999]
    assert drawn == [5, 9999]
