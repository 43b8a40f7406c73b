"""ATE and RPE from sums are those from all poses at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from everview.pipeline.posing.trajectory_errors import TrajectoryErrors, rotation_angle
from everview.pipeline.preparing.pose_errors import fit_similarity


def some_poses(count: int, seed: int = 0, far: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, rng=random).as_matrix()
    poses[:, :3, 3] = np.cumsum(random.normal(size=(count, 3)), axis=0) + far
    return poses


def moved(poses: np.ndarray, scale: float, noise: float = 0.0) -> np.ndarray:
    """The same poses seen from another world, `scale` times as large."""
    world = np.eye(4)
    world[:3, :3] = Rotation.from_rotvec([0.3, -1.0, 0.4]).as_matrix()
    world[:3, 3] = 5.0, -2.0, 1.0
    found = world @ poses
    found[:, :3, 3] = scale * found[:, :3, 3]
    found[:, :3, 3] += noise * np.random.default_rng(5).normal(size=(len(poses), 3))
    return found


def errors_of(found: np.ndarray, known: np.ndarray) -> TrajectoryErrors:
    errors = TrajectoryErrors()
    for pair in zip(found, known, strict=True):
        errors.add(*pair)
    return errors


def test_sums_give_the_error_of_the_best_similarity() -> None:
    known = some_poses(40, far=1000.0)
    found = moved(known, 0.5, noise=0.1)
    scale, rotation, shift = fit_similarity(found[:, :3, 3], known[:, :3, 3])
    rest = scale * found[:, :3, 3] @ rotation.T + shift - known[:, :3, 3]
    measured = errors_of(found, known).measure("Sim3")
    assert measured.ate_rmse == pytest.approx(np.sqrt((rest**2).sum(1).mean()), rel=1e-6)
    assert measured.scale == pytest.approx(scale, rel=1e-9)
    steps = np.linalg.norm(np.diff(known[:, :3, 3], axis=0), axis=1)
    assert measured.path_length == pytest.approx(steps.sum())


def test_another_world_is_no_error_and_another_scale_one_only_without_it() -> None:
    known = some_poses(20)
    same = errors_of(moved(known, 1.0), known).measure("SE3")
    assert same.ate_rmse < 1e-6
    assert same.rpe_translation_rmse < 1e-6
    assert same.rpe_rotation_deg_rmse < 1e-6
    half = errors_of(moved(known, 0.5), known)
    assert half.measure("Sim3").ate_rmse < 1e-6
    assert half.measure("Sim3").rpe_translation_rmse < 1e-6
    assert half.measure("SE3").ate_rmse > 0.1
    assert half.measure("SE3").scale == 1.0


def test_relative_errors_are_those_of_neighbours() -> None:
    known = some_poses(3)
    found = known.copy()
    turn = Rotation.from_rotvec([0, 0, np.radians(2.0)]).as_matrix()
    found[2, :3, :3] = found[2, :3, :3] @ turn
    found[2, :3, 3] += 0.3 * np.array([0.6, 0.0, 0.8])
    measured = errors_of(found, known).measure("SE3")
    assert measured.rpe_rotation_deg_rmse == pytest.approx(2.0 / np.sqrt(2))
    assert measured.rpe_translation_rmse == pytest.approx(0.3 / np.sqrt(2))


def test_stopped_and_resumed_the_sums_are_equal() -> None:
    known = some_poses(12)
    found = moved(known, 1.0, noise=0.1)
    half = errors_of(found[:5], known[:5])
    resumed = TrajectoryErrors.from_facts(json.loads(json.dumps(half.to_facts())))
    for pair in zip(found[5:], known[5:], strict=True):
        resumed.add(*pair)
    assert resumed.to_facts() == errors_of(found, known).to_facts()


def test_too_few_or_unmoved_frames_measure_nothing() -> None:
    known = some_poses(3)
    assert errors_of(known[:2], known[:2]).measure("SE3") is None
    assert errors_of(known[[0, 0, 0]], known[[0, 0, 0]]).measure("SE3") is None
    with pytest.raises(ValueError, match="sums"):
        TrajectoryErrors.from_facts({"sums": [0.0], "origins": None, "last": None})


def test_small_angles_are_exact() -> None:
    for angle in (1e-9, 0.5, np.pi):
        turned = Rotation.from_rotvec([0, angle, 0]).as_matrix()
        assert rotation_angle(turned) == pytest.approx(angle, rel=1e-6)
