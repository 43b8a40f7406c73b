"""A known cube from known cameras, in every format: axes, direction, order and half pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everview.datasets.cameras import invert_rigid, opencv_from_opengl
from everview.datasets.opening import open_capture
from tests.datasets.captures_on_disk import HAS_DEPTH, METRIC, WRITERS, cube_views
from tests.datasets.cube import CORNERS, corner_errors_px

FORMATS = sorted(WRITERS)


@pytest.fixture(scope="module", params=FORMATS)
def written(request, tmp_path_factory):
    views = cube_views()
    name = request.param
    return name, views, WRITERS[name](tmp_path_factory.mktemp(name), views)


def test_cameras_are_those_that_took_the_pictures(written):
    _, views, root = written
    frames = list(open_capture(root))
    assert len(frames) == len(views)
    for frame, seen in zip(frames, views, strict=True):
        np.testing.assert_allclose(frame.camera.c2w_cv, seen.camera.c2w_cv, atol=1e-6)
        np.testing.assert_allclose(frame.camera.intrinsics, seen.camera.intrinsics, atol=1e-4)


def test_corners_are_where_the_camera_projects_them_to_a_tenth_of_a_pixel(written):
    _, _, root = written
    for frame in open_capture(root):
        assert corner_errors_px(frame.image, frame.camera).max() < 0.1


def test_depth_unprojects_to_the_corners(written):
    name, _, root = written
    capture = open_capture(root)
    assert capture.info.has_depth == (name in HAS_DEPTH)
    assert capture.info.scale == ("metric" if name in METRIC else "up_to_scale")
    for frame in capture:
        if name not in HAS_DEPTH:
            assert frame.depth is None
            continue
        pixels, _ = frame.camera.project(CORNERS)
        depth = frame.depth[pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
        found = frame.camera.unproject(pixels, depth)
        np.testing.assert_allclose(found, CORNERS, atol=1.5e-3)
        assert frame.depth.dtype == np.float32


def test_half_a_pixel_would_be_seen():
    """The measure used above tells a principal point that is off by the half-pixel convention."""
    from dataclasses import replace

    seen = cube_views(1)[0]
    shifted = replace(seen.camera, cx=seen.camera.cx - 0.5, cy=seen.camera.cy - 0.5)
    assert corner_errors_px(seen.image, seen.camera).max() < 0.1
    assert corner_errors_px(seen.image, shifted).min() > 0.4


def test_opengl_taken_for_opencv_would_be_seen():
    seen = cube_views(1)[0]
    wrong = seen.camera.moved(opencv_from_opengl(seen.camera.c2w_cv))
    _, depth = wrong.project(CORNERS)
    assert (depth < 0).all()


def test_w2c_taken_for_c2w_would_be_seen():
    seen = cube_views(2)[1]
    wrong = seen.camera.moved(invert_rigid(seen.camera.c2w_cv))
    right_pixels, _ = seen.camera.project(CORNERS)
    pixels, _ = wrong.project(CORNERS)
    assert np.hypot(*(pixels - right_pixels).T).min() > 5


def test_quaternion_orders_of_colmap_and_tum_differ(tmp_path: Path):
    """Scalar first against scalar last: each reader gives the pose of the same camera."""
    views = cube_views(1)
    colmap = open_capture(WRITERS["colmap_text"](tmp_path / "colmap", views))[0]
    tum = open_capture(WRITERS["tum"](tmp_path / "tum", views))[0]
    np.testing.assert_allclose(colmap.camera.c2w_cv, tum.camera.c2w_cv, atol=1e-6)
