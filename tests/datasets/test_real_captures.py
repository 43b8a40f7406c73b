"""The example captures, as they are."""

from __future__ import annotations

import numpy as np
import pytest

from everview.datasets.opening import open_capture
from everview.datasets.resampling import fit_frame


def capture_of(data_dir, name):
    if not (data_dir / name).is_dir():
        pytest.skip(f"no {name} in {data_dir}")
    return open_capture(data_dir / name)


def test_fox_has_fifty_frames_and_names_the_seventeen_without_an_image(data_dir):
    capture = capture_of(data_dir, "fox")
    assert len(capture) == 50
    assert len(capture.skipped) == 17
    assert all("no image" in skip.reason for skip in capture.skipped)
    assert capture.info.scale == "up_to_scale"
    frame = capture[0]
    assert frame.image.shape == (960, 540, 3)
    assert frame.camera.fx == pytest.approx(687.76, rel=0.02)
    assert all(camera is not None for camera in capture.cameras())


def test_gso_toy_is_composited_on_white_and_looked_at_from_around(data_dir):
    capture = capture_of(data_dir, "gso_toy")
    assert len(capture) == 64
    frame = fit_frame(capture[5], 128, True)
    assert frame.image[0, 0].tolist() == [255, 255, 255]
    assert frame.image.min() < 100
    # every optical axis passes the origin: neither axes nor direction of the poses is confused
    for camera in capture.cameras():
        to_origin = -camera.centre / np.linalg.norm(camera.centre)
        assert to_origin @ camera.forward > 0.999


def test_hololens_depth_agrees_between_neighbouring_frames(data_dir):
    """Depth of one frame, lifted and seen from the next, matches that frame's depth."""
    capture = capture_of(data_dir, "hololens60")
    assert len(capture) == 60
    assert capture.info.scale == "metric"
    first, second = capture[20], capture[21]
    pixels = first.camera.pixel_centres()[::4, ::4]
    depth = first.depth[::4, ::4]
    points = first.camera.unproject(pixels, depth)[depth > 0]
    seen, z = second.camera.project(points)
    inside = (z > 0.2) & (seen > 0).all(1) & (seen < (540, 360)).all(1)
    columns, rows = seen[inside].astype(int).T
    measured = second.depth[rows, columns]
    error = np.abs(measured - z[inside])[measured > 0] / z[inside][measured > 0]
    assert len(error) > 500
    assert np.median(error) < 0.05
