"""What is written is read back: poses to 1e-6, intrinsics to 1e-4 px; files whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everview.datasets.cameras import Camera
from everview.datasets.formats.tum import read_trajectory
from everview.datasets.opening import open_capture
from everview.datasets.writers.atomic import write_atomically
from everview.datasets.writers.colmap_text import write_colmap_text
from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.datasets.writers.tum_trajectory import write_tum_trajectory
from tests.datasets.test_cameras import pose_of


def scene(folder: Path, *, shared: bool, walk: str = "walk_") -> list[PosedImage]:
    """Images of random cameras, with names that have folders."""
    images = []
    for k in range(5):
        focal = 40.0 + 1 / 3 if shared else 40.0 + k / 3
        camera = Camera(48, 32, focal, focal + 0.7, 24.1 + 1 / 7, 15.9, pose_of(k))
        name = f"images/{walk}{k // 3}/{k}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 32), (k, 0, 0)).save(folder / name)
        images.append(PosedImage(name, camera, time_s=0.1 * k))
    return images


def assert_same_cameras(capture, images: list[PosedImage]) -> None:
    assert len(capture) == len(images)
    by_name = {Path(image.name).name: image for image in images}
    for frame in capture:
        expected = by_name[Path(frame.name).name].camera
        np.testing.assert_allclose(frame.camera.c2w_cv, expected.c2w_cv, atol=1e-6)
        np.testing.assert_allclose(frame.camera.intrinsics, expected.intrinsics, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_transforms_json_round_trips(tmp_path, shared):
    images = scene(tmp_path, shared=shared, walk="a walk ")
    write_transforms_json(tmp_path / "transforms.json", images, "metric")
    capture = open_capture(tmp_path)
    assert_same_cameras(capture, images)
    assert capture.info.scale == "metric"
    capture.rewind()
    assert [frame.time_s for frame in capture] == [image.time_s for image in images]
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert ("fl_x" in content) is shared
    assert all(("fl_x" in frame) is not shared for frame in content["frames"])
    assert content["generator"].startswith("everview")


@pytest.mark.parametrize("shared", [True, False])
def test_colmap_text_round_trips(tmp_path, shared):
    images = [
        PosedImage(image.name.removeprefix("images/"), image.camera)
        for image in scene(tmp_path, shared=shared)
    ]
    points = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    write_colmap_text(tmp_path / "sparse" / "0", images, points)
    capture = open_capture(tmp_path)
    assert_same_cameras(capture, images)
    np.testing.assert_allclose(capture.info.points_world, points, atol=1e-6)


def test_colmap_itself_reads_the_model(tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (extra: geometry) is not installed")
    images = scene(tmp_path, shared=True)
    write_colmap_text(tmp_path / "model", images, np.eye(3), np.full((3, 3), 9, np.uint8))
    model = pycolmap.Reconstruction(str(tmp_path / "model"))
    assert model.num_points3D() == 3
    for image in model.images.values():
        expected = next(i.camera for i in images if i.name == image.name)
        matrix = image.cam_from_world().matrix()
        np.testing.assert_allclose(matrix, expected.w2c_cv[:3], atol=1e-9)
        np.testing.assert_allclose(image.camera.calibration_matrix(), expected.intrinsics)


def test_what_colmap_writes_in_binary_is_read(tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (extra: geometry) is not installed")
    images = scene(tmp_path, shared=False)
    write_colmap_text(tmp_path / "text", images, np.eye(3))
    (tmp_path / "sparse" / "0").mkdir(parents=True)
    model = pycolmap.Reconstruction(str(tmp_path / "text"))
    model.write_binary(str(tmp_path / "sparse" / "0"))
    capture = open_capture(tmp_path)
    assert "binary" in capture.info.format
    assert_same_cameras(capture, images)
    assert capture.info.points_world.shape == (3, 3)


def test_tum_trajectories_round_trip(tmp_path):
    cameras = [image.camera for image in scene(tmp_path, shared=True)]
    stamps = 1_305_031_102.175304 + np.arange(5) / 30
    write_tum_trajectory(tmp_path / "trajectory_tum.txt", cameras, stamps)
    times, poses = read_trajectory(tmp_path / "trajectory_tum.txt")
    np.testing.assert_allclose(times, stamps, atol=1e-6)
    np.testing.assert_allclose(poses, [camera.c2w_cv for camera in cameras], atol=1e-6)
    with pytest.raises(ValueError, match="ascend"):
        write_tum_trajectory(tmp_path / "t.txt", cameras, stamps[::-1])


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "index.json"
    write_atomically(path, "old")

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.json"]


def test_bad_requests_write_nothing(tmp_path):
    camera = scene(tmp_path / "elsewhere", shared=True)[0].camera
    half_masked = [PosedImage("a.png", camera, mask="m.png"), PosedImage("b.png", camera)]
    with pytest.raises(ValueError, match="masks"):
        write_transforms_json(tmp_path / "out.json", half_masked, "metric")
    with pytest.raises(ValueError, match="white space"):
        write_colmap_text(tmp_path / "model", [PosedImage("a\n1 2 3.png", camera)])
    with pytest.raises(ValueError, match="no images"):
        write_colmap_text(tmp_path / "model", [])
    assert not (tmp_path / "out.json").exists()
    assert not (tmp_path / "model").exists()
