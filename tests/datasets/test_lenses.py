"""Distortion: the formulas against COLMAP's own, and pictures made straight again."""

from __future__ import annotations

import numpy as np
import pytest

from everview.datasets.formats.colmap_model import PARAMETER_COUNTS, lens_of_model
from everview.datasets.lenses import Lens, rectify
from tests.datasets.cube import (
    CX,
    CY,
    FOCAL_X,
    FOCAL_Y,
    HEIGHT,
    WIDTH,
    cameras,
    corner_errors_px,
    view,
)

LENSES = {
    "opencv": Lens(WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY, "opencv",
                   (0.12, -0.05, 0.004, -0.003, 0.02)),
    "barrel": Lens(WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY, "opencv", (-0.25, 0.03)),
    "fisheye": Lens(WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY, "fisheye", (0.03, -0.01, 0.0, 0.001)),
    "thin_prism": Lens(WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY, "thin_prism_fisheye",
                       (0.05, 0.01, 0.002, -0.001, 0.0, 0.0, 0.003, -0.002)),
    "fov": Lens(WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY, "fov", (0.6,)),
}  # fmt: skip


@pytest.mark.parametrize("name", LENSES)
def test_rectified_pictures_show_corners_where_the_pinhole_projects_them(name):
    lens = LENSES[name]
    for camera in cameras(3):
        bent = view(camera, lens).image
        rectified = lens.camera(camera.c2w_cv)
        assert corner_errors_px(rectify(lens, bent), rectified).max() < 0.15
        assert (rectified.width, rectified.height) == (WIDTH, HEIGHT)


def test_the_picture_was_bent_by_more_than_the_tolerance_above():
    camera = cameras(1)[0]
    bent = view(camera, LENSES["barrel"]).image
    assert corner_errors_px(bent, camera).max() > 0.5


@pytest.mark.parametrize("name", LENSES)
def test_rectified_pictures_have_no_blank_border(name):
    """Every output pixel has a source: a white picture stays white to its corners."""
    lens = LENSES[name]
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    assert (rectify(lens, white) == 255).all()
    pinhole = lens.rectified()
    corners = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [WIDTH, HEIGHT]], float)
    u, v = lens.project((corners[:, 0] - pinhole.cx) / pinhole.fx,
                        (corners[:, 1] - pinhole.cy) / pinhole.fy)  # fmt: skip
    assert (u > -0.01).all()
    assert (u < WIDTH + 0.01).all()
    assert (v > -0.01).all()
    assert (v < HEIGHT + 0.01).all()


def test_depth_and_masks_are_not_blended_across_edges():
    lens = LENSES["opencv"]
    depth = np.where(np.arange(WIDTH) < WIDTH // 2, 1.0, 9.0).astype(np.float32)
    depth = np.repeat(depth[None], HEIGHT, 0)
    assert set(np.unique(rectify(lens, depth))) == {1.0, 9.0}
    mask = depth > 5
    assert rectify(lens, mask).dtype == bool


def test_no_distortion_returns_the_very_pixels():
    lens = Lens(WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY, "opencv", (0.0, 0.0))
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert rectify(lens, picture) is picture
    assert lens.rectified().fx == FOCAL_X


def test_distortion_that_folds_the_image_is_refused():
    lens = Lens(WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY, "opencv", (-40.0,))
    with pytest.raises(ValueError, match="folds"):
        lens.rectified()


def test_intrinsics_follow_an_image_stored_at_another_size():
    lens = Lens(400, 200, 300.0, 310.0, 190.0, 110.0).fitted(100, 50)
    assert (lens.fx, lens.fy, lens.cx, lens.cy) == (75.0, 77.5, 47.5, 27.5)
    with pytest.raises(ValueError, match="intrinsics are for 400x200"):
        Lens(400, 200, 300.0, 310.0, 190.0, 110.0).fitted(50, 100)


@pytest.mark.parametrize("model", PARAMETER_COUNTS)
def test_every_colmap_model_projects_as_colmap_does(model):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (extra: geometry) is not installed")
    camera = pycolmap.Camera.create_from_model_name(1, model, 150.0, WIDTH, HEIGHT)
    generator = np.random.default_rng(3)
    parameters = np.array(camera.params)
    start = next(i for i, value in enumerate(parameters) if abs(value - HEIGHT / 2) < 1e-9) + 1
    parameters[start:] = generator.uniform(-0.02, 0.02, len(parameters) - start)
    if model == "FOV":
        parameters[-1] = 0.7
    camera.params = parameters
    lens = lens_of_model("cameras.bin", model, WIDTH, HEIGHT, tuple(map(float, parameters)))
    directions = generator.uniform(-0.5, 0.5, (50, 2))
    u, v = lens.project(directions[:, 0], directions[:, 1])
    rays = np.concatenate([directions, np.ones((50, 1))], 1)
    expected = np.array([camera.img_from_cam(ray) for ray in rays])
    np.testing.assert_allclose(np.stack([u, v], -1), expected, atol=1e-6)
