"""The session: chunks, the gate, publishing, snapshots. Real model code with random weights."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from everview.datasets.errors import DataError
from everview.models.state import state_to_tensors
from everview.models.weight_files import load_model
from everview.pipeline.errors import InputRejected
from everview.pipeline.runs import read_frames
from everview.pipeline.streaming.chunks import read_chunks
from everview.pipeline.streaming.gate.verdicts import Verdict
from everview.pipeline.streaming.policies import Prequential, StreamPolicies
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.snapshots import commit_snapshot, load_snapshot


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights)


@pytest.fixture
def make(model, tmp_path):
    def build(name="run", **policies):
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        defaults = {"chunk_frames": 4, "retention_views": 1}
        return Session(model, StreamPolicies(**{**defaults, **policies}), out, World("up_to_scale"))

    return build


def tensors(session):
    return state_to_tensors(session.published.state)[0]


def sizes(session):
    return [chunk["frames"] for chunk in read_chunks(session.out)]


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=0, equal_nan=True)


def test_chunk_boundaries_follow_from_counts_and_are_recorded(make, frames):
    session = make(prequential=Prequential(2))
    for frame in frames(10):
        session.push(frame)
    assert sizes(session) == [4, 4]
    session.finish()
    assert sizes(session) == [4, 4, 2]
    rows = read_frames(session.out)
    assert [row["id"] for row in rows] == list(range(10))
    assert [row["chunk"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 2
    assert all(
        row["latency_ms"] > 0 and row["state_mib"] > 0 and row["rss_mib"] > 0 for row in rows
    )
    for name in ("residual", "memory_residual"):
        scored = [row["id"] for row in rows if row[name] is not None]
        assert scored == [4, 7, 8, 9], name


def test_a_restored_session_goes_on_bit_for_bit_with_frames_pending(make, frames):
    """Cut in the middle of a chunk, at every frame after the first chunk."""
    every = frames(11)
    whole = make("whole")
    for frame in every:
        whole.push(frame)
    whole.finish()
    for cut in range(4, 11):
        first = make(f"cut{cut}")
        for frame in every[:cut]:
            first.push(frame, {"next": frame.index + 1})
        first.snapshot()
        second = make(f"cut{cut}")
        second.restore(load_snapshot(second.out))
        assert second.cursor == {"next": cut}
        for frame in every[cut:]:
            second.push(frame)
        second.finish()
        assert_same(tensors(whole), tensors(second))
        assert second.retention.curve == whole.retention.curve
        assert [row["id"] for row in read_frames(second.out)] == list(range(11))


def test_frames_that_show_nothing_new_leave_the_state_as_it_would_be_without_them(
    make, frames, black
):
    clean, dirty = make("clean"), make("dirty")
    every = frames(8)
    for frame in every:
        clean.push(frame)
    for frame in every:
        assert dirty.push(frame).kind == "accepted"
        assert dirty.push(frame).reason == "frozen"
        assert dirty.push(black(frame)).reason == "black"
        assert dirty.push(replace(frame, camera=None)).reason == "no camera"
    assert_same(tensors(clean), tensors(dirty))
    assert dirty.refused["black"] == 8
    dirty.finish()
    rows = read_frames(dirty.out)
    assert [row["gate_reason"] for row in rows].count("black") == 8
    assert [row["sequence"] for row in rows] == list(range(32))


def test_a_state_that_is_not_finite_is_never_published(make, frames, monkeypatch):
    session = make()
    every = frames(12)
    for frame in every[:4]:
        session.push(frame)
    good = session.published
    poisoned = every[4].camera
    observe = session.model.observe

    def spoil(*args, **kwargs):
        state = observe(*args, **kwargs)
        named = state_to_tensors(state)[0]
        next(t for n, t in named.items() if n.startswith("layers.")).fill_(float("nan"))
        return state

    monkeypatch.setattr(session.model, "observe", spoil)
    for frame in every[4:8]:
        session.push(frame)
    assert session.published is good
    monkeypatch.undo()
    for frame in every[8:]:
        session.push(frame)
    assert session.published is not good
    assert np.isfinite(session.render(poisoned).depth).all()
    rows = read_frames(session.out)
    verdicts = [row["gate"] for row in rows]
    assert verdicts == ["accepted"] * 4 + ["rejected"] * 4 + ["accepted"] * 4
    assert all("not finite" in row["gate_reason"] for row in rows[4:8])
    assert session.counts == {"accepted": 8, "rejected": 4}


def test_retention_probes_the_first_chunk_that_was_learned(make, frames, monkeypatch):
    session = make()
    judge = session.gate.judge_state
    monkeypatch.setattr(session.gate, "judge_state", lambda _: Verdict("rejected", "made up"))
    for frame in frames(12)[:4]:
        session.push(frame)
    assert session.retention.frames == ()
    monkeypatch.setattr(session.gate, "judge_state", judge)
    for frame in frames(12)[4:]:
        session.push(frame)
    assert [frame.index for frame in session.retention.frames] == [4]
    assert len(session.retention.curve.values) == 2


def test_render_runs_beside_observe_and_sees_whole_states_only(make, frames):
    """Pictures drawn in a second thread are those of one of the published states, bit for bit."""
    every = frames(24)
    camera, time_s = every[2].camera, every[2].time_s
    expected = []
    quiet = make("quiet", retention_views=0, prequential=Prequential(0))
    for frame in every:
        quiet.push(frame)
        if frame.index % 4 == 3:
            expected.append(quiet.render(camera, time_s).image.tobytes())
    busy = make("busy", retention_views=0, prequential=Prequential(0))
    for frame in every[:4]:
        busy.push(frame)
    drawn, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            drawn.append(busy.render(camera, time_s).image.tobytes())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for frame in every[4:]:
            busy.push(frame)
    finally:
        stop.set()
        watcher.join()
    assert drawn
    assert set(drawn) <= set(expected)


def test_rendering_before_the_first_chunk_says_why_it_cannot(make, frames):
    session = make()
    session.push(frames(1)[0])
    with pytest.raises(InputRejected, match="no chunk of frames was absorbed"):
        session.render(frames(1)[0].camera)
    assert session.snapshot() is None


def test_a_chunk_without_a_scale_is_one_clear_sentence(make, frames):
    """Cameras side by side that look into the distance share no focus."""
    session = make()
    aside = []
    for index, frame in enumerate(frames(4)):
        pose = np.eye(4)
        pose[0, 3] = index
        aside.append(replace(frame, camera=frame.camera.moved(pose)))
    for frame in aside[:3]:
        session.push(frame)
    with pytest.raises(DataError, match=r"frames 000\.png to 003\.png: the scene's scale"):
        session.push(aside[3])


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "no manifest"])
@pytest.mark.parametrize("name", ["state.safetensors", "frames.safetensors", "session.json"])
def test_a_damaged_snapshot_is_named_and_the_one_before_it_used(make, frames, damage, name):
    session = make()
    for frame in frames(8):
        session.push(frame)
        if frame.index % 4 == 3:
            commit = session.snapshot()
    file = commit / name
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[:-1])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    else:
        file = commit / "MANIFEST.json"
        file.unlink()
    loaded = load_snapshot(session.out)
    assert loaded.facts["num_chunks"] == 1
    assert str(file) in loaded.set_aside[0]
    assert not commit.exists()


def test_when_no_snapshot_verifies_nothing_starts_over_silently(make, frames):
    session = make()
    for frame in frames(4):
        session.push(frame)
    (session.snapshot() / "state.safetensors").write_bytes(b"")
    for _ in range(2):  # the second attempt finds only what the first set aside
        with pytest.raises(InputRejected, match="--fresh"):
            load_snapshot(session.out)


def test_a_snapshot_of_other_weights_is_refused_and_says_replay(make, frames, weights):
    session = make()
    for frame in frames(4):
        session.push(frame)
    session.snapshot()
    other = load_model(weights)
    next(other.parameters()).data.add_(1)
    stranger = Session(other, session.policies, session.out)
    with pytest.raises(InputRejected, match="replay"):
        stranger.restore(load_snapshot(session.out))


def test_a_commit_that_fails_leaves_the_one_before(make, frames, monkeypatch):
    session = make()
    for frame in frames(4):
        session.push(frame)
    session.snapshot()
    loaded = load_snapshot(session.out)
    later = replace(loaded, facts={**loaded.facts, "num_chunks": 2})

    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("everview.pipeline.streaming.snapshots.os.rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        commit_snapshot(session.out, later)
    monkeypatch.undo()
    assert [path.name for path in (session.out / "snapshot").iterdir()] == ["00000001-4"]
    assert load_snapshot(session.out).facts["num_chunks"] == 1


def test_a_kill_while_the_same_frames_are_committed_again_loses_nothing(make, frames, monkeypatch):
    session = make()
    for frame in frames(4):
        session.push(frame, {"next": frame.index + 1})
    session.snapshot()

    def kill(*_):
        raise KeyboardInterrupt

    session.finish()
    monkeypatch.setattr("everview.pipeline.streaming.snapshots.os.rename", kill)
    with pytest.raises(KeyboardInterrupt):
        session.snapshot()
    monkeypatch.undo()
    assert load_snapshot(session.out).facts["cursor"] == {"next": 4}
    made = [session.snapshot().name for _ in range(3)]
    assert made == ["00000001-4-1", "00000001-4-2", "00000001-4-3"]
    assert sorted(path.name for path in (session.out / "snapshot").iterdir()) == made[1:]


def test_what_a_kill_left_of_a_commit_is_gone_after_the_next(make, frames):
    session = make()
    for frame in frames(4):
        session.push(frame)
    (session.out / "snapshot" / ".00000001-4.0a1b2c3d.tmp").mkdir(parents=True)
    session.snapshot()
    assert [path.name for path in (session.out / "snapshot").iterdir()] == ["00000001-4"]


def test_a_run_that_may_only_be_read_is_looked_into_past_a_damaged_snapshot(
    make, frames, monkeypatch
):
    session = make()
    for frame in frames(8):
        session.push(frame)
        session.snapshot()
    damaged = session.out / "snapshot" / "00000002-8"
    (damaged / "session.json").write_text("{")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("everview.pipeline.streaming.snapshots.os.replace", refuse)
    loaded = load_snapshot(session.out)
    assert loaded.facts["num_chunks"] == 1
    assert len(loaded.set_aside) == 1
    assert damaged.is_dir()


def test_names_that_are_no_text_survive_in_a_snapshot(make, frames):
    every = [replace(frame, name="caf\udce9.png") for frame in frames(6)]
    first = make()
    for frame in every:
        first.push(frame)
    first.snapshot()
    second = make()
    second.restore(load_snapshot(second.out))
    assert [pending.frame.name for pending in second.pending] == ["caf\udce9.png"] * 2
