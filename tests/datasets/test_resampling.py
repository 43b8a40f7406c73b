"""Resizing and cropping: whatever happens to the pixels happens to the camera."""

from __future__ import annotations

import numpy as np
import pytest

from everview.datasets.captures import Frame
from everview.datasets.resampling import (
    centre_crop,
    crop,
    fit_frame,
    resize,
    resize_short_side,
)
from tests.datasets.cube import CORNERS, cameras, corner_errors_px, view


def frame_of(index: int = 0) -> Frame:
    seen = view(cameras(4)[index])
    depth = seen.depth_mm.astype(np.float32) / 1000
    return Frame(0, "cube", seen.image, seen.camera, None, depth, depth > 2.5)


def grid_in_the_world(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    u, v = np.meshgrid(np.linspace(0, 160, 9), np.linspace(0, 120, 7))
    pixels = np.stack([u, v], -1).reshape(-1, 2)
    return pixels, frame.camera.unproject(pixels, np.linspace(1, 5, len(pixels)))


def test_a_projected_grid_follows_resize_and_crop_to_a_ten_thousandth_of_a_pixel():
    frame = frame_of()
    pixels, points = grid_in_the_world(frame)
    resized = resize(frame, 100, 90)
    found, _ = resized.camera.project(points)
    np.testing.assert_allclose(found, pixels * (100 / 160, 90 / 120), atol=1e-4)
    cropped = crop(resized, 11, 7, 64, 48)
    again, _ = cropped.camera.project(points)
    np.testing.assert_allclose(again, found - (11, 7), atol=1e-4)


@pytest.mark.parametrize(("size", "square"), [(96, True), (88, False), (240, True), (200, False)])
def test_corners_stay_under_the_camera_when_a_frame_is_fitted(size, square):
    for index in range(3):
        fitted = fit_frame(frame_of(index), size, square)
        assert corner_errors_px(fitted.image, fitted.camera).max() < 0.12


def test_square_is_the_evaluation_protocol():
    fitted = fit_frame(frame_of(), 64, True)
    assert fitted.image.shape == (64, 64, 3)
    assert fitted.depth.shape == fitted.mask.shape == (64, 64)
    scale = 64 / 120
    assert fitted.camera.fx == pytest.approx(150.0 * 85 / 160)
    assert fitted.camera.fy == pytest.approx(154.0 * scale)
    assert fitted.camera.cx == pytest.approx(82.3 * 85 / 160 - (85 - 64) // 2)


def test_full_aspect_keeps_the_short_side_and_rounds_both_to_the_patch():
    fitted = fit_frame(frame_of(), 88, False)
    assert fitted.image.shape == (88, 120, 3)  # 160 * 88 / 120 = 117.3
    assert (fitted.camera.width, fitted.camera.height) == (120, 88)
    tall = resize(frame_of(), 540, 960)
    assert fit_frame(tall, 128, False).image.shape == (224, 128, 3)


def test_depth_and_masks_are_never_blended():
    frame = frame_of()
    fitted = fit_frame(frame, 71, False)
    assert set(np.unique(fitted.depth)) <= set(np.unique(frame.depth))
    pixels, z = fitted.camera.project(CORNERS)
    inside = (pixels > 1).all(1) & (pixels < np.array(fitted.image.shape[1::-1]) - 1).all(1)
    columns, rows = pixels[inside].astype(int).T
    np.testing.assert_allclose(fitted.depth[rows, columns], z[inside], atol=1e-3)
    np.testing.assert_array_equal(fitted.mask, fitted.depth > 2.5)


def test_shrinking_does_not_alias():
    """A one-pixel checkerboard shrinks to grey, not to a pattern."""
    board = np.indices((128, 128)).sum(0) % 2 * 255
    frame = Frame(0, "board", np.repeat(board[..., None].astype(np.uint8), 3, -1))
    small = resize_short_side(frame, 32).image
    assert np.ptp(small[4:-4, 4:-4].astype(int)) <= 4


def test_a_frame_of_the_right_size_is_left_alone():
    frame = frame_of()
    assert resize(frame, 160, 120) is frame
    assert centre_crop(frame, 160, 120).camera.cx == frame.camera.cx


def test_a_crop_that_leaves_the_image_is_refused():
    with pytest.raises(ValueError, match="leaves 160x120"):
        crop(frame_of(), 100, 0, 64, 64)
