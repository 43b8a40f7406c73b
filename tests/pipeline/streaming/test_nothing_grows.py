"""What a session holds and what its snapshots cost doesn't depend on how many frames there were."""

from dataclasses import replace

import numpy as np
import pytest

from everview.models.weight_files import load_model
from everview.pipeline.benchmarks.long_stream.__main__ import Setting, measure
from everview.pipeline.benchmarks.long_stream.looped import LoopedCapture
from everview.pipeline.errors import InputRejected, UsageError
from everview.pipeline.runs import read_frames
from everview.pipeline.streaming.camera_files import write_cameras
from everview.pipeline.streaming.policies import Prequential, StreamPolicies
from everview.pipeline.streaming.retention import HalfLife
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.snapshots import load_snapshot
from everview.pipeline.streaming.tally import OTHERS, Tally
from everview.pipeline.streaming.trajectory import ROWS_NAME, Trajectory

LONG = 600


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights)


@pytest.fixture
def session(model, tmp_path):
    policies = StreamPolicies(chunk_frames=4, retention_views=1, prequential=Prequential(0))
    return Session(model, policies, tmp_path, World("up_to_scale"))


def pass_by(session, frames, first, count):
    """Frames that are held out: they leave a camera, a time and a name, and nothing else."""
    for number in range(first, first + count):
        frame = frames[number % len(frames)]
        session.hold_out(replace(frame, index=number, name=f"{number:06d}", time_s=0.1 * number))


def test_a_snapshot_costs_the_same_after_hundreds_of_frames(session, frames):
    every = frames(8)
    for frame in every:
        session.push(frame)
    sizes = []
    for first in (8, 16):
        pass_by(session, every, first, 8 if first == 8 else LONG)
        commit = session.snapshot()
        sizes.append(sum(file.stat().st_size for file in commit.iterdir()))
    assert sizes[1] - sizes[0] < 100  # longer numbers
    assert len(session.trajectory) == LONG + 16


def test_all_cameras_are_there_at_the_end_of_a_long_stream(session, frames, tmp_path):
    every = frames(8)
    for frame in every:
        session.push(frame)
    pass_by(session, every, 8, LONG)
    trajectory = session.trajectory
    write_cameras(tmp_path, trajectory, "up_to_scale")
    lines = (tmp_path / "trajectory_tum.txt").read_text().splitlines()[1:]
    assert [float(line.split()[0]) for line in lines] == [0.1 * n for n in range(LONG + 8)]
    assert len(trajectory.held_out_indices()) == LONG
    assert trajectory.covered_s() == (0.0, 0.1 * (LONG + 7))
    assert np.array_equal(trajectory.camera_of(400).c2w_cv, every[0].camera.c2w_cv)
    assert trajectory.camera_of(LONG + 8) is None
    assert [seen.index for seen in trajectory.evenly(3)] == [0, (LONG + 7) // 2 + 1, LONG + 7]
    assert [seen.index for seen in trajectory.evenly(2, is_held_out=False)] == [0, 7]
    # from the same place and with the same sight, or next to it
    assert trajectory.nearest_observed([400, 403], [0, 1, 2, 3]) == {400: 0, 403: 3}


def test_a_trajectory_is_read_as_the_snapshot_has_it(session, frames):
    every = frames(8)
    for frame in every[:5]:
        session.push(frame)
    marks = session.trajectory.marks()
    for frame in every[5:]:
        session.push(frame)
    before = Trajectory.of_run(session.out, marks)
    assert [seen.index for seen in before.seen()] == list(range(5))
    assert list(before.names()) == [frame.name for frame in every[:5]]
    assert before.covered_s() == (0.0, every[4].time_s)


def test_a_trajectory_that_was_damaged_sets_aside_the_snapshots_that_hold_it(session, frames):
    every = frames(8)
    for frame in every[:4]:
        session.push(frame)
    session.snapshot()
    length = (session.out / ROWS_NAME).stat().st_size
    for frame in every[4:]:
        session.push(frame)
    session.snapshot()
    damaged = bytearray((session.out / ROWS_NAME).read_bytes())
    damaged[length + 3] ^= 1
    (session.out / ROWS_NAME).write_bytes(damaged)
    snapshot = load_snapshot(session.out)
    assert snapshot.facts["num_chunks"] == 1
    assert ROWS_NAME in snapshot.set_aside[0]
    damaged[3] ^= 1
    (session.out / ROWS_NAME).write_bytes(damaged)
    with pytest.raises(InputRejected, match=ROWS_NAME):
        load_snapshot(session.out)


def test_rows_of_frames_that_are_rejected_for_ever_do_not_wait_in_memory(session, frames):
    every = frames(5)
    for frame in every:
        session.push(frame)
    for number in range(5, 305):
        session.push(replace(every[4], index=number, camera=None))
    rows = [row["id"] for row in read_frames(session.out)]
    assert len(rows) >= 256
    session.finish()
    assert sorted(row["id"] for row in read_frames(session.out)) == list(range(305))


def test_reasons_that_senders_make_up_are_few():
    tally = Tally()
    for number in range(1000):
        tally.count(f"size {number}")
    assert len(tally) == 65
    assert tally[OTHERS] == 1000 - 64
    assert tally.total() == 1000


def test_a_half_life_is_found_as_the_curve_comes():
    half = HalfLife(floor=10.0)
    for value in (20.0, 18.0, 16.0, 12.0, 25.0):
        half.add(value)
    assert half.result() == (2.25, "")
    flat, low = HalfLife(10.0), HalfLife(10.0)
    for _ in range(3):
        flat.add(20.0)
        low.add(10.1)
    assert flat.result()[0] is None
    assert "2 further chunks" in flat.result()[1]
    assert "never learned" in low.result()[1]


def test_a_looped_capture_goes_there_and_back_without_standing_still():
    capture = LoopedCapture("orbit", 1, frames=12, size=16, drawn=4)
    every = list(capture)
    places = [int(np.nonzero([f.image is k.image for k in every[:4]])[0][0]) for f in every]
    assert places == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1]
    assert [frame.index for frame in every] == list(range(12))
    assert np.allclose(np.diff([frame.time_s for frame in every]), 0.1)


def test_the_command_compares_windows_of_a_real_stream(tmp_path):
    setting = Setting(frames=224, size=16, weights="tiny", drawn=6, window=12, device="cpu",
                      world="orbit", viewer=5.0, retention_views=1)  # fmt: skip
    (tmp_path / "run").mkdir()
    report = measure(setting, tmp_path / "run")
    assert [row.frame for row in report.rows] == [200, 212]
    told = report.as_json()
    assert told["rows"][1]["ratios"]["rss"] == pytest.approx(
        report.rows[1].rss_mib / report.rows[0].rss_mib
    )
    assert told["stream"]["counts"]["accepted"] == 224
    assert told["stream"]["viewer"]["got"] > 0
    assert report.table().count("\n") == 3
    with pytest.raises(UsageError, match="at least 224"):
        replace(setting, frames=223)
