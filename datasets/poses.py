"""Poses as files write them: nearly rigid matrices, quaternions, and tables of either."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

# Beyond this, float64 leaves no millimetre; such a number is damage, not a place.
MAX_DISTANCE = 1e9


def rigid_pose(matrix: Any) -> np.ndarray:
    """A 4x4 or 3x4 pose as float64 [4, 4] with an exact rotation.

    Rounded decimals leave a rotation slightly off (up to 1 % is taken for that) and it is replaced
    by the nearest true one. Raises ValueError on NaN, scale, shear, mirrors and other shapes.
    """
    try:
        pose = np.array(matrix, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("its pose is not a matrix of numbers") from None
    if pose.shape == (3, 4):
        pose = np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])
    if pose.shape != (4, 4):
        raise ValueError(f"its pose has shape {pose.shape}, expected 4x4 or 3x4")
    if not np.isfinite(pose).all():
        raise ValueError("its pose holds values that are not finite")
    if not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-5):
        raise ValueError(f"the last row of its pose is {pose[3].tolist()}, not 0 0 0 1")
    _check_distance(pose)
    rotation = pose[:3, :3]
    if np.abs(rotation).max() > 1.1:
        raise ValueError("its pose is not rigid (scaled or sheared rotation)")
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if error > 1e-2:
        raise ValueError("its pose is not rigid (singular, scaled or sheared rotation)")
    if np.linalg.det(rotation) < 0:
        raise ValueError("its pose mirrors space (determinant -1)")
    if error > 1e-5:  # below that it is the last printed digit, and numbers stay as written
        u, _, vt = np.linalg.svd(rotation)
        pose[:3, :3] = u @ vt
    pose[3] = [0, 0, 0, 1]
    return pose


def pose_from_quaternion(quaternion_xyzw: Any, translation: Any) -> np.ndarray:
    """float64 [4, 4] from a quaternion, scalar LAST, of any positive length, and a translation."""
    quaternion = np.asarray(quaternion_xyzw, np.float64)
    pose = np.eye(4)
    pose[:3, 3] = translation
    if not np.isfinite(quaternion).all() or not np.isfinite(pose).all():
        raise ValueError("its pose holds values that are not finite")
    largest = np.abs(quaternion).max()
    if largest < 1e-6:
        raise ValueError("its quaternion has length 0")
    _check_distance(pose)
    pose[:3, :3] = Rotation.from_quat(quaternion / largest).as_matrix()
    return pose


def _check_distance(pose: np.ndarray) -> None:
    if np.abs(pose[:3, 3]).max() > MAX_DISTANCE:
        raise ValueError(f"its pose lies more than {MAX_DISTANCE:.0e} units from the origin")


def quaternion_xyzw(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion, scalar LAST and not negative, of a rotation [3, 3]."""
    return Rotation.from_matrix(rotation).as_quat(canonical=True)
