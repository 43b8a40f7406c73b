"""Pose errors are those that were put in, whatever similarity lies between the two worlds."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from everview.datasets.errors import DataError
from everview.datasets.shards import write_shards
from everview.pipeline.preparing.pose_errors import (
    compare_with_capture,
    fit_similarity,
    pose_errors,
)
from tests.datasets.shards.posed import scene


def some_poses(count=12, seed=0):
    random = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, rng=random).as_matrix()
    poses[:, :3, 3] = random.normal(size=(count, 3)) * [3.0, 2.0, 0.5]
    return poses


def moved(poses, scale=0.37, seed=1):
    """The same cameras in a turned, scaled and shifted world."""
    turn = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    other = poses.copy()
    other[:, :3, :3] = turn @ poses[:, :3, :3]
    other[:, :3, 3] = scale * poses[:, :3, 3] @ turn.T + [5.0, -2.0, 9.0]
    return other


def test_a_similar_world_has_no_error():
    poses = some_poses()
    errors = pose_errors(moved(poses), poses)
    assert errors.scale == pytest.approx(1 / 0.37)
    assert errors.rotation_deg_max < 1e-6
    assert errors.translation_max < 1e-9


def test_a_turned_camera_is_off_by_the_angle_it_was_turned():
    poses = some_poses()
    found = moved(poses)
    turn = Rotation.from_rotvec(np.radians(3.0) * np.array([0.0, 0.6, 0.8])).as_matrix()
    found[4, :3, :3] = found[4, :3, :3] @ turn
    errors = pose_errors(found, poses)
    assert errors.rotation_deg_max == pytest.approx(3.0)
    assert errors.rotation_deg_mean == pytest.approx(3.0 / len(poses))


def test_a_half_turn_is_180_degrees():
    poses = some_poses()
    found = poses.copy()
    found[:, :3, :3] = found[:, :3, :3] @ np.diag([1.0, -1.0, -1.0])
    assert pose_errors(found, poses).rotation_deg_mean == pytest.approx(180.0)


def test_a_shifted_camera_is_off_by_its_share_of_the_extent():
    poses = some_poses(400)
    extent = np.linalg.norm(poses[:, :3, 3] - poses[:, :3, 3].mean(0), axis=-1).max()
    found = moved(poses)
    found[0, :3, 3] += 0.37 * np.array([0.1 * extent, 0.0, 0.0])
    # one camera of 400 hardly moves the fit
    assert pose_errors(found, poses).translation_max == pytest.approx(0.1, rel=0.02)


def test_mirrored_points_are_not_fitted_by_a_mirror():
    points = some_poses()[:, :3, 3]
    _, rotation, _ = fit_similarity(points, points * [1.0, 1.0, -1.0])
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_too_few_or_coincident_points_are_refused():
    with pytest.raises(ValueError, match="3 pairs"):
        pose_errors(some_poses(2), some_poses(2))
    with pytest.raises(ValueError, match="one place"):
        fit_similarity(np.zeros((5, 3)), np.zeros((5, 3)))


def test_shards_are_compared_with_a_capture_by_the_names_of_views(tmp_path):
    from PIL import Image

    written = scene("s", views=6, height=24, width=32)
    write_shards(tmp_path / "set", [written])
    folder = tmp_path / "capture"
    folder.mkdir()
    for name, image in zip(written.view_names, written.images, strict=True):
        Image.fromarray(image).save(folder / name)
    np.savetxt(folder / "K.txt", np.array([[30.0, 0, 16], [0, 31, 12], [0, 0, 1]]))
    poses = moved(written.cameras.c2w_cv.numpy())
    np.savetxt(folder / "poses_c2w.txt", poses.reshape(-1, 16))
    errors = compare_with_capture(str(tmp_path / "set"), str(folder))
    assert errors.views == 6
    assert errors.rotation_deg_max < 1e-4
    assert errors.translation_max < 1e-6
    for name in written.view_names:
        (folder / name).rename(folder / f"x{name}")
    with pytest.raises(DataError, match="in common"):
        compare_with_capture(str(tmp_path / "set"), str(folder))
