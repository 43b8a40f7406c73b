"""A run is looked into where it stands, finished or not; what can't be is said in one sentence."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from everview.models.weight_files import load_model
from everview.pipeline.errors import InputRejected
from everview.pipeline.rendering.ply import PointCloud, write_point_cloud
from everview.pipeline.runs import RunDirectory
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.session import Session
from everview.pipeline.viewing.comparisons import side_by_side
from everview.pipeline.viewing.config import PageOptions, ViewConfig
from everview.pipeline.viewing.live import LiveView
from everview.pipeline.viewing.renders import MOST_VISITORS
from everview.pipeline.viewing.scenes import MOST_CAMERAS, LiveScene, RunScene
from everview.pipeline.viewing.server import open_server
from everview.pipeline.viewing.view import OpenPage, view_run
from everview.workflows.cli.main import run_verb

pytest.importorskip("viser")


@pytest.fixture
def interrupted(weights, make_frames, tmp_path):
    """A run that was stopped after ten frames, with points."""
    with RunDirectory.open(tmp_path / "run", "stream", {"capture": "walk"}) as run:
        session = Session(
            load_model(str(weights)), StreamPolicies(chunk_frames=4), run.path,
            weights_name=str(weights),
        )  # fmt: skip
        for frame in make_frames(10):
            session.push(frame)
        session.snapshot()
        points = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
        cloud = PointCloud(points, np.full((50, 3), 90, np.uint8), np.ones(50, np.float32))
        write_point_cloud(run.path / "points.ply", cloud)
        run.finish(130)
    return tmp_path / "run"


class EndsOnceAnnounced:
    """Says what is said, and ends the page when its address is."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended = threading.Event()

    def step(self, stage, done, total):
        pass

    def say(self, line):
        self.lines.append(line)
        self.ended.set()


def test_an_interrupted_run_opens_with_all_that_it_has_seen(interrupted):
    scene = RunScene(interrupted, device="cpu")
    covered = scene.covered()
    assert (covered.num_frames, covered.times_s) == (10, (0.0, pytest.approx(0.9)))
    assert scene.counts() == {"accepted": 8}  # rows of whole chunks
    assert scene.retention().seen == 2
    assert len(scene.history.curves["latency_ms"].values) == 8


def test_view_says_where_the_page_is_and_ends_cleanly(interrupted):
    progress = EndsOnceAnnounced()
    config = ViewConfig(run=str(interrupted), port=0, device="cpu")
    assert view_run(config, progress, progress.ended) == interrupted
    assert progress.lines[0].startswith("look at http://127.0.0.1:")
    assert "ssh -N -L" in progress.lines[1]
    assert not [t for t in threading.enumerate() if t.name == "viewing"]


def test_what_is_no_run_and_hosts_beyond_this_machine_are_refused(tmp_path, capsys):
    assert run_verb("view", [str(tmp_path)]) == 3
    assert run_verb("view", [str(tmp_path), "--host", "0.0.0.0"]) == 2
    assert run_verb("view", [str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    sentences = capsys.readouterr().err.splitlines()
    assert "there is no scene in it" in sentences[0]
    assert "ssh -L" in sentences[1]
    with pytest.raises(InputRejected):
        RunScene(tmp_path)


def test_a_page_that_cannot_open_leaves_no_thread_behind(weights, tmp_path):
    session = Session(load_model(str(weights)), StreamPolicies(), tmp_path)
    taken = open_server("127.0.0.1", 0)
    try:
        with pytest.raises(Exception, match="another"):
            LiveView(session, 64, PageOptions(port=taken.get_port()))
    finally:
        taken.stop()
    assert not [t for t in threading.enumerate() if t.name in ("viewing", "page")]


def test_a_long_stream_shows_no_more_cameras_than_a_short_one(weights, make_frames, tmp_path):
    session = Session(load_model(str(weights)), StreamPolicies(chunk_frames=8), tmp_path)
    scene = LiveScene(session, 64)
    assert scene.layout() is None
    assert scene.renderer() is None
    frames = make_frames(8)
    for frame in frames:
        session.push(frame)
    assert scene.renderer() is scene.renderer()
    for _ in range(400):
        session.trajectory.append(frames[3], is_held_out=True)
    covered = scene.covered()
    assert covered.num_frames == 408
    assert len(covered.cameras) == MOST_CAMERAS
    assert covered.cameras[-1].is_held_out


def test_pictures_that_cannot_be_read_leave_the_page_standing(tmp_path):
    from everview.pipeline.report.contents import PictureSet

    (tmp_path / "a.png").write_bytes(b"\x89PNG not at all")
    view = PictureSet("a", {"truth": tmp_path / "a.png"}, None)
    assert side_by_side(view).shape[-1] == 3


def test_a_page_that_is_updated_for_hours_holds_no_more_messages(weights, make_frames, tmp_path):
    session = Session(load_model(str(weights)), StreamPolicies(chunk_frames=4), tmp_path)
    with OpenPage(LiveScene(session, 64), PageOptions(port=0)) as opened:
        frames = make_frames(120)
        for frame in frames[:24]:
            session.push(frame)
            opened.page.update()
        held = _messages_held(opened)
        for frame in frames[24:]:
            session.push(frame)
            opened.page.update()
        assert _messages_held(opened) <= held + 4


def test_a_visitor_too_many_is_told_once_however_often_the_camera_moves(weights, tmp_path):
    session = Session(load_model(str(weights)), StreamPolicies(), tmp_path)
    told = []

    def looks(visitor):
        client = SimpleNamespace(
            client_id=visitor, add_notification=lambda *_: told.append(visitor)
        )
        looking = {"position": np.zeros(3), "fov": 1.0, "aspect": 1.0, "client": client}
        return SimpleNamespace(wxyz=np.array([1.0, 0.0, 0.0, 0.0]), **looking)

    with OpenPage(LiveScene(session, 64), PageOptions(port=0)) as opened:
        page = opened.page
        for visitor in [*range(MOST_VISITORS + 1)] * 3:
            asyncio.run(page._moved(looks(visitor)))
        assert told == [MOST_VISITORS]
        asyncio.run(page._leave(looks(0).client))
        asyncio.run(page._moved(looks(MOST_VISITORS)))
        asyncio.run(page._moved(looks(0)))
        assert told == [MOST_VISITORS, 0]


def _messages_held(opened: OpenPage) -> int:
    """What the server keeps for visitors to come."""
    return len(opened.page._server._websock_server._broadcast_buffer.message_from_id)
