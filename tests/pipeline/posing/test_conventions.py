"""Poses in another convention than their file's are named, with and without depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from everview.datasets.cameras import invert_rigid, opencv_from_opengl
from everview.datasets.captures import Frame
from everview.datasets.opening import open_capture
from everview.pipeline.posing.conventions import READINGS, check_conventions, judge_readings

C2W_CV, C2W_GL, W2C_CV, W2C_GL = READINGS
# what a file holds that states a camera's c2w_cv in each of the conventions
WRITTEN = {
    C2W_CV: lambda pose: pose,
    C2W_GL: opencv_from_opengl,
    W2C_CV: invert_rigid,
    W2C_GL: lambda pose: invert_rigid(opencv_from_opengl(pose)),
}


@pytest.fixture(scope="module")
def groups(walk: list[Frame]) -> list[list[Frame]]:
    """Neighbours that are turned by some degrees."""
    return [walk[place : place + 6 : 5] for place in (0, 3, 6)]


def as_read(groups, written: str, read: str, has_depth: bool) -> list[list[Frame]]:
    """The frames of files written in one convention by a reader that takes them for another."""

    def turned(frame: Frame) -> Frame:
        pose = READINGS[read](WRITTEN[written](frame.camera.c2w_cv))
        depth = frame.depth if has_depth else None
        return replace(frame, camera=frame.camera.moved(pose), depth=depth)

    return [[turned(frame) for frame in group] for group in groups]


@pytest.mark.parametrize("written", READINGS)
@pytest.mark.parametrize("read", [C2W_CV, C2W_GL, W2C_CV])
def test_by_depth_every_convention_is_told_from_every_other(groups, written, read) -> None:
    checked = judge_readings(as_read(groups, written, read, True), read, "walk")
    assert checked.evidence == "depth"
    if written == read:
        assert checked.warning is None
    else:
        assert f"read as {written} they would explain" in checked.warning
        assert "\n" not in checked.warning


def test_without_depth_matched_features_tell(groups) -> None:
    pytest.importorskip("pycolmap")
    right = judge_readings(as_read(groups, C2W_GL, C2W_GL, False), C2W_GL, "walk")
    assert right.evidence == "matched features"
    assert right.warning is None
    for written in (C2W_CV, W2C_GL):
        wrong = judge_readings(as_read(groups, written, C2W_GL, False), C2W_GL, "walk")
        assert f"read as {written} they would" in wrong.warning


def test_nothing_is_said_where_nothing_tells(groups) -> None:
    blank = [[replace(frame, image=np.zeros_like(frame.image), depth=None) for frame in group]
             for group in groups]  # fmt: skip
    assert judge_readings(as_read(blank, W2C_CV, C2W_CV, False), C2W_CV, "walk") is None
    assert judge_readings([], C2W_CV, "walk") is None
    assert check_conventions(open_capture("procedural://room?frames=4&size=32")) is None


def test_poses_that_fit_no_reading_name_none(groups) -> None:
    shuffled = [[replace(a, camera=b.camera), replace(b, camera=a.camera)] for a, b in groups]
    checked = judge_readings(shuffled, C2W_CV, "walk")
    assert checked is None or checked.warning is None
