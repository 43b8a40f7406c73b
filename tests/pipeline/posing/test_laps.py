"""Drift from lap to lap of paths that are known."""

from __future__ import annotations

import numpy as np
import pytest

from everview.pipeline.posing.learned.laps import lap_length, laps


def circle(frames: int, a_lap: int) -> np.ndarray:
    """A tilted circle of radius 2."""
    angle = 2.0 * np.pi * np.arange(frames) / a_lap
    return np.stack([2 * np.cos(angle), 2 * np.sin(angle), 0.3 * np.cos(angle)], -1)


def test_a_lap_ends_where_it_began():
    assert lap_length(circle(100, 30)) == 30
    assert lap_length(circle(25, 30)) is None


def test_poses_right_up_to_similarity_have_no_drift_and_a_still_camera_has_the_radius():
    known = circle(100, 30)
    found = 0.1 * known[:, [1, 2, 0]] + 5.0
    told = laps(found, known)
    assert [lap.frames for lap in told] == [30, 30, 30]
    assert max(lap.rmse for lap in told) < 1e-9
    assert told[0].still_rmse == pytest.approx(2.0, rel=0.02)


def test_drift_is_told_lap_by_lap_in_metres_and_lost_frames_are_left_out():
    known = circle(90, 30)
    found = known.copy()
    found[30:60, 0] += 0.1
    found[60:, 0] += 0.2
    found[35] = np.nan
    told = laps(found, known)
    assert [lap.frames for lap in told] == [30, 29, 30]
    assert [lap.rmse for lap in told] == pytest.approx([0.0, 0.1, 0.2], abs=1e-9)
