"""Learned odometry with a matcher that knows the answer, and with one that knows nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from everview.datasets.captures import Frame
from everview.models.pairs.config import PairConfig
from everview.models.pairs.matcher import PairMatcher
from everview.pipeline.errors import UsageError
from everview.pipeline.posing.learned.odometer import LearnedLimits, LearnedOdometer
from tests.pipeline.posing.exact_matcher import ExactMatcher

LIMITS = LearnedLimits(keyframes=4, window=3, references=3, short_side=64, next_shared=0.8)


def poses_of(odometer: LearnedOdometer, frames: list[Frame]) -> list[np.ndarray]:
    found = [odometer.pose(frame) for frame in frames]
    assert all(posed.problem is None for posed in found)
    return [posed.frame.camera.c2w_cv for posed in found]


@pytest.fixture(scope="module")
def there_and_back(walk) -> list[Frame]:
    """Away and back to where it began."""
    return [*walk, *walk[-2::-1]]


def test_poses_are_right_up_to_scale_with_pictures_and_lenses_alone(walk):
    odometer = LearnedOdometer(limits=LIMITS, matcher=ExactMatcher(walk))
    bare = [replace(frame, depth=None) for frame in walk]
    poses = poses_of(odometer, bare)
    assert np.array_equal(poses[0], np.eye(4))
    errors = odometer.errors.measure("Sim3")
    assert errors.frames == len(walk)
    assert errors.ate_share_of_path < 0.01
    assert errors.rpe_rotation_deg_rmse < 0.5
    assert 1 < odometer.counts["keyframes"] < len(walk)


def test_the_unit_is_the_median_depth_that_the_first_frame_shows(walk):
    odometer = LearnedOdometer(limits=LIMITS, matcher=ExactMatcher(walk))
    poses_of(odometer, walk[:1])
    assert np.median(odometer.points_world()[:, 2]) == pytest.approx(1.0, rel=0.02)


def test_coming_back_ends_where_it_began_and_memory_stays_bounded(there_and_back):
    odometer = LearnedOdometer(limits=LIMITS, matcher=ExactMatcher(there_and_back))
    poses = poses_of(odometer, there_and_back)
    walked = np.linalg.norm(poses[11][:3, 3])
    assert np.linalg.norm(poses[-1][:3, 3]) < 0.01 * walked
    facts = odometer.to_facts()
    assert len(facts["keyframes"]) <= LIMITS.keyframes
    assert odometer.counts["keyframes"] > LIMITS.keyframes


def test_stopped_and_resumed_it_goes_on_bit_for_bit(walk):
    matcher = ExactMatcher(walk)
    whole, stopped = (LearnedOdometer(limits=LIMITS, matcher=matcher) for _ in range(2))
    expected = poses_of(whole, walk)[6:]
    poses_of(stopped, walk[:6])
    resumed = LearnedOdometer(limits=LIMITS, matcher=matcher)
    facts = json.loads(json.dumps(stopped.to_facts()))
    resumed.restore(facts, stopped.to_tensors())
    assert np.array_equal(poses_of(resumed, walk[6:]), expected)
    assert resumed.to_facts() == whole.to_facts()


def test_a_lost_frame_is_named_and_counted_and_a_known_place_brings_it_back(walk):
    other = [replace(frame, image=np.flip(frame.image, 0).copy()) for frame in walk[:1]]
    matcher = ExactMatcher([*walk, *other])
    wild = matcher.compare

    def compare(a, b):
        matches = wild(a, b)
        is_other = len(walk) in (int(a.fine[0, 0]), int(b.fine[0, 0]))
        far = matches.position.flip(1, 2) if is_other else matches.position
        return replace(matches, position=far)

    matcher.compare = compare
    odometer = LearnedOdometer(limits=LIMITS, matcher=matcher)
    poses_of(odometer, walk[:4])
    lost = odometer.pose(other[0])
    assert lost.frame.camera is None
    assert "learned poses lost: " in lost.problem
    again = odometer.pose(walk[4])
    assert again.problem is None
    assert odometer.counts["lost"] == 1


def test_a_frozen_camera_does_not_move(walk):
    odometer = LearnedOdometer(limits=LIMITS, matcher=ExactMatcher(walk))
    poses = poses_of(odometer, [walk[0], walk[1], walk[1], walk[1]])
    assert np.array_equal(poses[1], poses[3])


def test_frames_without_intrinsics_are_refused_in_words(walk):
    odometer = LearnedOdometer(limits=LIMITS, matcher=ExactMatcher(walk))
    assert odometer.pose(replace(walk[0], camera=None)).problem == "no intrinsics for learned poses"


def test_an_untrained_network_is_lost_or_wrong_but_never_fails(walk):
    config = PairConfig(stem=8, fine=16, dim=16, heads=1, own_layers=1, joint_layers=1, match=8,
                        hidden=16, iterations=1, place=4)  # fmt: skip
    odometer = LearnedOdometer(limits=LIMITS, matcher=PairMatcher(config).eval())
    for frame in walk[:4]:
        posed = odometer.pose(frame)
        assert (posed.frame.camera is None) == (posed.problem is not None)


@pytest.mark.parametrize(
    "values", [{"window": 1}, {"keyframes": 5}, {"references": 0}, {"short_side": 16}]
)
def test_limits_that_no_odometer_can_keep_are_refused(values):
    with pytest.raises(UsageError):
        LearnedLimits(**values)
