"""Camera paths: axioms of every path, and what each one promises about where it goes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everview.datasets.cameras import opengl_from_opencv
from everview.datasets.errors import DataError
from everview.pipeline.errors import UsageError
from everview.pipeline.rendering.path_choice import choose_path
from everview.pipeline.rendering.path_files import path_from_file
from everview.pipeline.rendering.paths import interpolate, orbit, spiral
from everview.pipeline.rendering.survey import common_focus, look_at, survey, up_direction
from tests.pipeline.rendering.cameras_around import LENS, ring, walk

unit = st.floats(-1, 1, allow_nan=False)
vectors = st.tuples(unit, unit, unit).filter(lambda v: np.linalg.norm(v) > 0.2)


@given(position=vectors, target=vectors, up=vectors)
@settings(max_examples=100, deadline=None)
def test_look_at_is_a_rotation_that_looks_at_the_target_and_stands_upright(position, target, up):
    position, target, up = (np.asarray(v) for v in (position, target, up))
    if np.linalg.norm(target - position) < 1e-3:
        return
    pose = look_at(position, target, up)
    rotation = pose[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    ahead = (target - position) / np.linalg.norm(target - position)
    np.testing.assert_allclose(rotation[:, 2], ahead, atol=1e-9)
    if np.linalg.norm(np.cross(ahead, up)) > 1e-3:
        assert rotation[:, 0] @ up == pytest.approx(0, abs=1e-6)  # level
        assert -rotation[:, 1] @ up > 0  # not upside down


@pytest.mark.parametrize("up", [(0, 0, 1), (0, -1, 0), (1, 2, -0.5)])
def test_the_survey_of_a_ring_finds_target_up_and_radius(up):
    layout = survey(ring(up=up))
    assert layout.is_inward
    np.testing.assert_allclose(layout.target, [0.3, -0.2, 0.5], atol=1e-6)
    np.testing.assert_allclose(layout.up, np.asarray(up) / np.linalg.norm(up), atol=1e-6)
    assert layout.radius == pytest.approx(np.hypot(2.0, 0.7))


def test_a_walk_has_no_focus_and_keeps_the_distance_it_is_told():
    layout = survey(walk(), distance=3.0)
    assert common_focus(walk()) is None
    assert not layout.is_inward
    assert layout.radius == 3.0
    np.testing.assert_allclose(up_direction(walk()), [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("cameras", [ring(), ring(arc=80), walk()], ids=["ring", "arc", "walk"])
@pytest.mark.parametrize("build", [orbit, spiral, interpolate])
def test_every_path_is_rigid_and_keeps_the_lens(build, cameras):
    path = build(survey(cameras, distance=3.0), 30)
    assert len(path.cameras) == len(path.time_s) == 30
    for camera in path.cameras:  # Camera itself refuses what is not a rotation
        assert (camera.width, camera.height, camera.fx) == (LENS.width, LENS.height, LENS.fx)


@pytest.mark.parametrize("cameras", [ring(), ring(arc=80), walk()], ids=["ring", "arc", "walk"])
@pytest.mark.parametrize("build", [orbit, spiral])
def test_orbit_and_spiral_look_at_the_target_and_stay_level(build, cameras):
    layout = survey(cameras, distance=3.0)
    for camera in build(layout, 24).cameras:
        pixel, depth = camera.project(layout.target)
        np.testing.assert_allclose(pixel, [LENS.cx, LENS.cy], atol=1e-6)
        assert depth > 0
        assert camera.c2w_cv[:3, 0] @ layout.up == pytest.approx(0, abs=1e-9)
        assert -camera.c2w_cv[:3, 1] @ layout.up > 0


@pytest.mark.parametrize("build", [orbit, spiral, interpolate])
def test_no_path_comes_nearer_to_an_object_than_the_capture_did(build):
    """Half of the cameras face the other half: a straight line would cut through the object."""
    around = ring(24)
    jumping = [around[(7 * index) % 24] for index in range(24)]
    for cameras in (around, jumping, ring(2) + ring(3)):
        layout = survey(cameras)
        captured = min(np.linalg.norm(c.centre - layout.target) for c in cameras)
        path = build(layout, 60)
        nearest = min(np.linalg.norm(c.centre - layout.target) for c in path.cameras)
        assert nearest > 0.99 * captured


def test_an_orbit_closes_only_where_the_capture_went_round():
    table = survey(ring(arc=80))
    swing = np.array([c.centre for c in orbit(table, 200).cameras])
    captured = np.array([c.centre for c in ring(arc=80)])
    for point in swing:  # inside the captured arc
        assert np.linalg.norm(captured - point, axis=1).min() < 0.25
    full = np.array([c.centre for c in orbit(survey(ring()), 200).cameras])
    step = np.linalg.norm(np.diff(full, axis=0), axis=1)
    assert np.linalg.norm(full[0] - full[-1]) == pytest.approx(step.mean(), rel=1e-3)
    assert step.sum() == pytest.approx(2 * np.pi * 2.0, rel=0.02)


def test_interpolate_passes_through_the_captured_cameras_and_their_times():
    cameras = walk(6)
    layout = survey(cameras, times_s=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], distance=3.0)
    path = interpolate(layout, 501)
    for index, camera in enumerate(cameras):
        gaps = [np.abs(other.c2w_cv - camera.c2w_cv).max() for other in path.cameras]
        assert min(gaps) < 0.02
        assert path.time_s[int(np.argmin(gaps))] == pytest.approx(index, abs=0.02)
    steps = np.diff([c.centre for c in path.cameras], axis=0)
    assert np.linalg.norm(steps, axis=1).max() < 0.01  # smooth: no jump


def test_interpolate_orders_cameras_that_jump_about():
    around = ring(24)
    jumping = [around[(7 * index) % 24] for index in range(24)]
    path = interpolate(survey(jumping), 240)
    travelled = np.linalg.norm(np.diff([c.centre for c in path.cameras], axis=0), axis=1).sum()
    assert travelled < 1.5 * 2 * np.pi * 2.0


def test_one_camera_is_enough_for_every_path():
    layout = survey(walk(1), distance=2.0)
    for build in (orbit, spiral, interpolate):
        assert len(build(layout, 5).cameras) == 5


def test_chosen_paths_have_the_asked_size_in_whole_patches():
    path = choose_path("auto", survey(ring()), 4, size=100, patch=8)
    assert path.name == "orbit"
    assert {(c.width, c.height) for c in path.cameras} == {(136, 96)}
    assert choose_path("auto", survey(walk()), 4, 96, 8).name == "interpolate"


def test_without_a_time_the_middle_of_the_stream_is_looked_at():
    layout = survey(ring(5), times_s=[0.0, 1.0, 2.0, 3.0, 4.0])
    assert set(choose_path("orbit", layout, 3, 96, 8).time_s) == {2.0}
    assert set(choose_path("orbit", layout, 3, 96, 8, time_s=0.5).time_s) == {0.5}


def test_a_sweep_goes_from_the_first_moment_to_the_last_whatever_the_path():
    layout = survey(ring(5), times_s=[0.5, 1.0, 2.0, 3.0, 4.5])
    path = choose_path("still", layout, 5, 96, 8, time_s="sweep")
    assert path.time_s == (0.5, 1.5, 2.5, 3.5, 4.5)
    assert len({camera.c2w_cv.tobytes() for camera in path.cameras}) == 1
    assert choose_path("orbit", layout, 3, 96, 8, time_s="sweep").time_s == (0.5, 2.5, 4.5)
    with pytest.raises(UsageError, match="no time stamps"):
        choose_path("still", survey(ring(5)), 5, 96, 8, time_s="sweep")


def test_an_unknown_path_names_the_known_ones():
    with pytest.raises(UsageError, match="orbit, spiral, interpolate"):
        choose_path("orbti", survey(ring()), 3, 96, 8)


def test_a_transforms_file_gives_its_own_cameras_and_times(tmp_path):
    frames = [
        {"transform_matrix": opengl_from_opencv(camera.c2w_cv).tolist(), "time": 0.5 * index}
        for index, camera in enumerate(walk(3))
    ]
    file = tmp_path / "path.json"
    file.write_text(json.dumps({"fl_x": 90, "w": 64, "h": 48, "frames": frames}))
    path = path_from_file(file, LENS)
    assert path.time_s == (0.0, 0.5, 1.0)
    assert (path.cameras[0].width, path.cameras[0].fx) == (64, 90)
    for camera, written in zip(path.cameras, walk(3), strict=True):
        np.testing.assert_allclose(camera.c2w_cv, written.c2w_cv, atol=1e-12)


def test_a_tum_file_is_camera_to_world_with_the_scalar_last(tmp_path):
    half = np.sqrt(0.5)
    file = tmp_path / "path.txt"
    file.write_text(f"# t x y z qx qy qz qw\n1.5 1 2 3 0 0 {half} {half}\n")
    path = path_from_file(file, LENS)
    np.testing.assert_allclose(path.cameras[0].centre, [1, 2, 3])
    np.testing.assert_allclose(path.cameras[0].c2w_cv[:3, 0], [0, 1, 0], atol=1e-12)
    assert path.time_s == (1.5,)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", '{"frames": 3}', '{"frames": [{"transform_matrix": [[1]]}]}', "1 2 3\n",
        "0 0 0 0 0 0 0 0\n", "0 nan 0 0 0 0 0 1\n", '{"frames": []}', "{" * 100_000,
        '{"frames": [{"transform_matrix": "x"}]}', '{"frames": [7]}',
    ],
)  # fmt: skip
def test_a_broken_camera_file_is_one_sentence_that_names_it(tmp_path, text):
    file = tmp_path / "path.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"path\.json"):
        path_from_file(file, LENS)
