"""Cameras by their axioms, over random poses and lenses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from everview.datasets.cameras import (
    Camera,
    Cameras,
    concatenate,
    invert_rigid,
    opencv_from_opengl,
    opengl_from_opencv,
)
from everview.datasets.poses import pose_from_quaternion, quaternion_xyzw, rigid_pose

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=40, deadline=None)


def pose_of(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(rng=generator).as_matrix()
    pose[:3, 3] = generator.normal(0, 10, 3)
    return pose


def camera_of(seed: int) -> Camera:
    generator = np.random.default_rng(seed)
    width, height = generator.integers(16, 400, 2)
    fx, fy = generator.uniform(0.5, 2.0, 2) * width
    cx, cy = generator.uniform(0.3, 0.7, 2) * (width, height)
    return Camera(int(width), int(height), fx, fy, cx, cy, pose_of(seed))


def points_before(camera: Camera, seed: int, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    pixels = generator.uniform(0, 1, (count, 2)) * (camera.width, camera.height)
    return pixels, generator.uniform(0.1, 50.0, count)


@quick
@given(seeds)
def test_inversion_is_an_involution_and_composes_to_identity(seed):
    pose = pose_of(seed)
    np.testing.assert_allclose(invert_rigid(pose) @ pose, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(invert_rigid(invert_rigid(pose)), pose, atol=1e-12)


@quick
@given(seeds)
def test_opengl_and_opencv_name_the_same_camera(seed):
    pose = pose_of(seed)
    flipped = opengl_from_opencv(pose)
    np.testing.assert_allclose(opencv_from_opengl(flipped), pose, atol=0)
    np.testing.assert_allclose(flipped[:3, 3], pose[:3, 3], atol=0)
    np.testing.assert_allclose(flipped[:3, 2], -pose[:3, 2], atol=0)
    np.testing.assert_allclose(flipped[:3, 1], -pose[:3, 1], atol=0)
    assert np.linalg.det(flipped[:3, :3]) > 0


@quick
@given(seeds)
def test_project_undoes_unproject(seed):
    camera = camera_of(seed)
    pixels, depth = points_before(camera, seed)
    found, z = camera.project(camera.unproject(pixels, depth))
    np.testing.assert_allclose(found, pixels, atol=1e-7)
    np.testing.assert_allclose(z, depth, rtol=1e-9)


@quick
@given(seeds, st.integers(1, 300), st.integers(1, 300))
def test_resizing_scales_projections_with_the_image(seed, width, height):
    camera = camera_of(seed)
    pixels, depth = points_before(camera, seed)
    found, _ = camera.resized(width, height).project(camera.unproject(pixels, depth))
    expected = pixels * (width / camera.width, height / camera.height)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@quick
@given(seeds, st.integers(-20, 20), st.integers(-20, 20))
def test_cropping_shifts_projections(seed, left, top):
    camera = camera_of(seed)
    pixels, depth = points_before(camera, seed)
    found, _ = camera.cropped(left, top, 10, 10).project(camera.unproject(pixels, depth))
    np.testing.assert_allclose(found, pixels - (left, top), atol=1e-7)


@quick
@given(seeds)
def test_world_motion_moves_points_and_cameras_together(seed):
    camera, motion = camera_of(seed), pose_of(seed + 1)
    pixels, depth = points_before(camera, seed)
    points = camera.unproject(pixels, depth) @ motion[:3, :3].T + motion[:3, 3]
    found, z = camera.moved(motion @ camera.c2w_cv).project(points)
    np.testing.assert_allclose(found, pixels, atol=1e-6)
    np.testing.assert_allclose(z, depth, rtol=1e-8)


@quick
@given(seeds)
def test_rays_of_a_stack_pass_through_the_pixel_centres(seed):
    camera = camera_of(seed).resized(12, 9)
    origins, directions = Cameras.stack([camera, camera]).rays()
    points = (origins[1] + 3.0 * directions[1]).numpy()
    found, depth = camera.project(points)
    np.testing.assert_allclose(found, camera.pixel_centres(), atol=1e-7)
    assert (depth > 0).all()
    np.testing.assert_allclose(directions.norm(dim=-1), 1.0, atol=1e-12)


@quick
@given(seeds)
def test_quaternions_round_trip_scalar_last(seed):
    pose = pose_of(seed)
    quaternion = quaternion_xyzw(pose[:3, :3])
    assert quaternion[3] >= 0
    np.testing.assert_allclose(
        pose_from_quaternion(7.0 * quaternion, pose[:3, 3]), pose, atol=1e-12
    )


def test_stacks_unbind_to_the_same_cameras_and_join():
    cameras = [camera_of(seed).resized(8, 8) for seed in range(3)]
    stack = Cameras.stack(cameras)
    for camera, again in zip(cameras, stack.unbind(), strict=True):
        np.testing.assert_allclose(again.c2w_cv, camera.c2w_cv, atol=0)
        np.testing.assert_allclose(again.intrinsics, camera.intrinsics, atol=0)
    assert concatenate([stack, stack]).shape == torch.Size([6])
    with pytest.raises(ValueError, match="in one stack"):
        Cameras.stack([cameras[0], cameras[1].resized(9, 8)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fx": -1.0}, "not positive"),
        ({"fx": float("nan")}, "not finite"),
        ({"width": 0}, "not positive"),
        ({"c2w_cv": np.full((4, 4), np.nan)}, "not finite"),
        ({"c2w_cv": np.diag([2.0, 2.0, 2.0, 1.0])}, "not rigid"),
        ({"c2w_cv": np.diag([1.0, 1.0, -1.0, 1.0])}, "mirrors"),
        ({"c2w_cv": np.zeros((4, 4))}, "last row"),
        ({"c2w_cv": np.eye(3)}, "shape"),
    ],
)
def test_what_is_no_camera_is_refused(change, said):
    good = dict(width=8, height=8, fx=9.0, fy=9.0, cx=4.0, cy=4.0, c2w_cv=np.eye(4))
    with pytest.raises(ValueError, match=said):
        Camera(**(good | change))


def test_rounded_rotations_become_true_ones_and_broken_ones_are_refused():
    pose = pose_of(5)
    rounded = np.round(pose, 3)
    mended = rigid_pose(rounded)
    np.testing.assert_allclose(mended[:3, :3] @ mended[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(mended, pose, atol=2e-3)
    for broken in (np.diag([1.0, 1.0, 0.0, 1.0]), np.full((4, 4), np.inf), [["a"] * 4] * 4, 3):
        with pytest.raises(ValueError, match="its pose"):
            rigid_pose(broken)
