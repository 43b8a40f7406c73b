"""The walk through many rooms: consistent wherever one stands, and cheap however long it is."""

import numpy as np
import pytest

from everview.datasets.errors import DataError
from everview.datasets.procedural import open_procedural
from everview.datasets.procedural.capture import WalkCapture, parse_procedural
from everview.datasets.procedural.walk import ROOM_M, STEP_M

FRAMES = 108


@pytest.fixture(scope="module")
def capture():
    return WalkCapture(parse_procedural(f"procedural://walk?seed=3&frames={FRAMES}&size=24"), 1)


def points_of(frame) -> np.ndarray:
    """The world points of its pixels, [H W, 3]."""
    camera = frame.camera
    pixels = camera.pixel_centres().reshape(-1, 2)
    return camera.unproject(pixels, frame.depth.reshape(-1))


def test_nothing_is_seen_beyond_the_rooms_that_are_drawn(capture):
    for index in (0, 7, 20, 33, 48, 52, 54, 56, 70, 95):
        frame = capture[index]
        here = capture.walk.room_of(frame.camera)
        y = points_of(frame)[:, 1]
        assert (frame.depth > 0).all()
        assert y.min() > max(here - 2, 0) * ROOM_M - 0.1
        assert y.max() < (here + 3) * ROOM_M + 0.1


def test_rooms_are_the_same_from_wherever_they_are_seen(capture):
    """Points of one frame lie on the surfaces that a frame from the next room sees, or behind."""
    first, second = capture[11], capture[13]
    assert capture.walk.room_of(first.camera) + 1 == capture.walk.room_of(second.camera)
    pixels, depth = second.camera.project(points_of(first))
    column, row = np.floor(pixels).astype(int).T
    inside = (depth > 0) & (column >= 0) & (column < 24) & (row >= 0) & (row < 24)
    there = second.depth[row[inside], column[inside]]
    agrees = np.abs(depth[inside] - there) < 0.1 * there
    assert inside.sum() > 100
    assert agrees.mean() > 0.7
    colours = second.image[row[inside], column[inside]][agrees].astype(int)
    apart = np.abs(colours - first.image.reshape(-1, 3)[inside][agrees]).mean(1)
    assert np.median(apart) < 25


def test_the_walk_goes_through_every_opening_and_ends_where_it_began(capture):
    walk = capture.walk
    centres = np.stack([walk.camera(index, 24).centre for index in range(FRAMES)])
    steps = np.linalg.norm(np.diff(centres[:50, :2], axis=0), axis=1)
    assert np.abs(steps - STEP_M).max() < 0.03
    assert walk.reach_m == 20.0
    assert walk.rooms() == 5
    np.testing.assert_allclose(centres[-1, :2], centres[1, :2], atol=0.05)
    fine = np.stack([walk.camera(i, 24).centre for i in np.linspace(0, 50, 501)])
    for wall in range(walk.rooms() - 1):
        nearest = np.abs(fine[:, 1] - ROOM_M * (wall + 1)).argmin()
        hand = 1 if wall % 2 == 0 else -1
        assert 1.2 < hand * fine[nearest, 0] < 1.8


def test_a_camera_never_stands_in_a_thing(capture):
    for seed in (1, 2):
        rooms = WalkCapture(parse_procedural(f"procedural://walk?seed={seed}&frames=60&size=8"), 1)
        assert min(float(rooms[index].depth.min()) for index in range(0, 60, 6)) > 0.1


def test_a_walk_is_a_capture_with_a_cursor_like_any_other(capture):
    again = open_procedural("procedural://walk?seed=3&frames=3&size=8")
    iterator = iter(again)
    next(iterator)
    other = open_procedural("procedural://walk?seed=3&frames=3&size=8")
    other.restore(again.state())
    assert [frame.index for frame in other] == [1, 2]
    assert capture.info.num_frames == FRAMES
    with pytest.raises(DataError, match="nothing moves"):
        parse_procedural("procedural://walk?dynamic=true")
    with pytest.raises(DataError, match="did you mean 'walk'"):
        parse_procedural("procedural://walks")
