"""Odometry on procedural RGB-D frames, whose depth and poses are exact."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from everview.datasets.captures import Frame
from everview.datasets.lenses import Lens
from everview.datasets.opening import open_capture

pytest.importorskip("open3d")
pytest.importorskip("pycolmap")

from everview.pipeline.posing.odometer import Odometer
from everview.pipeline.posing.refinement import Refiner


@pytest.fixture(scope="module")
def followed(walk: list[Frame]) -> tuple[Odometer, list[np.ndarray]]:
    odometer = Odometer()
    return odometer, poses_of(odometer, walk)


def poses_of(odometer: Odometer, frames: list[Frame]) -> list[np.ndarray]:
    found = [odometer.pose(frame) for frame in frames]
    assert [posed.problem for posed in found] == [None] * len(frames)
    return [posed.frame.camera.c2w_cv for posed in found]


def test_a_walk_is_followed_within_one_per_cent_of_its_path(walk, followed) -> None:
    odometer, _ = followed
    errors = odometer.errors.measure("SE3")
    assert errors.frames == len(walk)
    assert errors.ate_share_of_path < 0.01
    assert errors.rpe_rotation_deg_rmse < 0.5
    assert 1 < odometer.counts["keyframes"] < len(walk)


def stopped_and_resumed(walk: list[Frame]) -> tuple[Odometer, np.ndarray]:
    stopped = Odometer()
    before = poses_of(stopped, walk[:6])
    facts = json.loads(json.dumps(stopped.to_facts(), allow_nan=False))
    tensors = {name: tensor.clone() for name, tensor in stopped.to_tensors().items()}
    resumed = Odometer()
    resumed.restore(facts, tensors)
    return resumed, np.stack(before + poses_of(resumed, walk[6:]))


def test_stopped_and_resumed_it_finds_the_same_poses_bit_for_bit(walk, monkeypatch) -> None:
    # the refinement alone isn't repeatable to the bit everywhere (`refinement`)
    monkeypatch.setattr(Refiner, "refine", lambda self, frame, key, start: start)
    whole = Odometer()
    poses = np.stack(poses_of(whole, walk))
    resumed, again = stopped_and_resumed(walk)
    assert np.array_equal(again, poses)
    assert resumed.to_facts() == whole.to_facts()


def test_stopped_and_resumed_it_finds_the_same_poses_with_the_refinement(walk, followed) -> None:
    resumed, again = stopped_and_resumed(walk)
    np.testing.assert_allclose(again, np.stack(followed[1]), rtol=0, atol=1e-3)
    assert resumed.counts == followed[0].counts


def test_what_it_keeps_does_not_grow_with_the_stream(followed) -> None:
    limits = followed[0].limits
    places = {name.split(".")[0] for name in followed[0].to_tensors()}
    assert len(places) <= limits.keyframes + 1


def test_a_jump_is_lost_and_named_and_the_way_back_is_found(walk) -> None:
    odometer = Odometer()
    poses_of(odometer, walk[:3])
    elsewhere = next(iter(open_capture("procedural://room?seed=11&frames=1&size=96")))
    lost = odometer.pose(elsewhere)
    assert lost.problem.startswith("odometry lost: ")
    assert lost.frame.camera is None
    again = odometer.pose(walk[3])
    assert again.problem is None
    assert odometer.counts["lost"] == 1
    assert odometer.errors.measure("SE3").frames == 4


def test_a_frame_without_depth_or_intrinsics_has_no_camera(walk) -> None:
    odometer = Odometer()
    blind = odometer.pose(replace(walk[0], depth=None))
    unknown = odometer.pose(replace(walk[0], depth=np.zeros_like(walk[0].depth)))
    bare = odometer.pose(replace(walk[0], camera=None))
    assert blind.problem == bare.problem == "no depth or no intrinsics for odometry"
    assert unknown.problem == "too little depth for odometry"
    assert odometer.counts == {"lost": 3}


def test_a_lens_stands_in_for_frames_without_a_camera(walk, followed) -> None:
    camera = walk[0].camera
    whole = Lens(
        2 * camera.width, 2 * camera.height, *(2 * camera.intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]])
    )
    odometer = Odometer(whole)
    poses = poses_of(odometer, [replace(frame, camera=None) for frame in walk[:3]])
    assert np.allclose(poses, followed[1][:3], atol=1e-6)
    assert odometer.errors.measure("SE3") is None
