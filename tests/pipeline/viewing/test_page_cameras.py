"""A page's camera and ours are the same camera."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everview.datasets.cameras import Camera
from everview.pipeline.rendering.survey import look_at
from everview.pipeline.viewing.cameras import Eye, fitting_fov, frusta, quaternion_of

UP = np.array([0.0, 0.0, 1.0])
LENS = Camera(96, 64, 80, 80, 48, 32, np.eye(4))
numbers = st.floats(-5, 5)


def eye_at(position, aspect: float = 1.5, fov_y: float = 1.0) -> Eye:
    camera = LENS.moved(look_at(np.array(position), np.array([0.3, 9.0, 0.2]), UP))
    return Eye(quaternion_of(camera), camera.centre, fov_y, aspect)


@settings(max_examples=30, deadline=None)
@given(st.tuples(numbers, numbers, numbers))
def test_orientation_survives_the_way_to_the_page_and_back(position):
    pose = look_at(np.array(position), np.array([0.3, 9.0, 0.2]), UP)
    eye = eye_at(position)
    np.testing.assert_allclose(eye.camera(64, 8).c2w_cv, pose, atol=1e-12)


def test_quaternions_are_those_of_viser():
    transforms = pytest.importorskip("viser.transforms")
    camera = LENS.moved(look_at(np.array([1.0, -2.0, 0.5]), np.zeros(3), UP))
    theirs = transforms.SO3(quaternion_of(camera)).as_matrix()
    np.testing.assert_allclose(theirs, camera.c2w_cv[:3, :3], atol=1e-12)


@pytest.mark.parametrize("aspect", [0.3, 0.75, 1.0, 1.777, 4.0])
def test_a_picture_stretched_over_the_canvas_has_the_canvas_field_of_view(aspect):
    camera = eye_at([0, 0, 0], aspect).camera(128, 8)
    assert camera.height / 2 / camera.fy == pytest.approx(math.tan(0.5))
    assert camera.width / 2 / camera.fx == pytest.approx(aspect * math.tan(0.5))
    assert camera.width % 8 == camera.height % 8 == 0
    assert max(camera.width, camera.height) <= 2.5 * 128
    assert min(camera.width, camera.height) == 128


def test_a_wide_canvas_sees_the_solid_angle_of_an_upright_capture():
    upright = Camera(64, 128, 100, 100, 32, 64, np.eye(4))
    fov_y = fitting_fov(upright, 2.0)
    height = 2 * math.tan(fov_y / 2)
    assert height * 2.0 * height == pytest.approx(0.64 * 1.28)


def test_frusta_end_at_the_corners_of_their_pictures():
    camera = LENS.moved(look_at(np.array([1.0, -2.0, 0.5]), np.zeros(3), UP))
    lines = frusta([LENS, camera], 0.5)
    assert lines.shape == (16, 2, 3)
    np.testing.assert_allclose(lines[8:12, 0], np.tile(camera.centre, (4, 1)), atol=1e-6)
    pixels, depth = camera.project(lines[8:12, 1])
    np.testing.assert_allclose(pixels, [[0, 0], [96, 0], [96, 64], [0, 64]], atol=1e-3)
    np.testing.assert_allclose(depth, 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("wxyz", "fov_y", "aspect"),
    [([0, 0, 0, 0], 1.0, 1.0), ([1, 0, 0, math.nan], 1.0, 1.0), ([1, 0, 0, 0], math.inf, 1.0),
     ([1, 0, 0, 0], 1.0, 0.0), ([2, 0, 0, 0], 1.0, 1.0)],
)  # fmt: skip
def test_what_no_page_looks_through_is_refused(wxyz, fov_y, aspect):
    with pytest.raises(ValueError, match="page"):
        Eye(np.array(wxyz, float), np.zeros(3), fov_y, aspect)
