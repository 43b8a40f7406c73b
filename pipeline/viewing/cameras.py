"""What a page says of its camera, and ours.

A page's camera is a unit quaternion (w, x, y, z) that turns camera axes into the world's, a
position, and the vertical field of view of a canvas with some aspect. Its axes are OpenCV's (x
right, y down, z forward), as `viser.CameraHandle` documents and the browser test holds it to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from everview.datasets.cameras import Camera

# A canvas may be any shape; the picture stretched over it has sides of at most this ratio.
_MOST_ASPECT = 2.5
_LEAST_FOV, _MOST_FOV = math.radians(2), math.radians(150)


@dataclass(frozen=True, eq=False)
class Eye:
    """A page's camera. Raises ValueError on what can't be looked through.

    wxyz: unit quaternion. position: [3] in the capture's world. fov_y: radians. aspect: width of
    the canvas over its height.
    """

    wxyz: np.ndarray
    position: np.ndarray
    fov_y: float
    aspect: float

    def __post_init__(self) -> None:
        numbers = np.concatenate([self.wxyz, self.position, [self.fov_y, self.aspect]])
        if numbers.shape != (9,) or not np.isfinite(numbers).all():
            raise ValueError("a page's camera is nine finite numbers")
        if abs(np.linalg.norm(self.wxyz) - 1) > 1e-2:
            raise ValueError("a page's camera has a quaternion that is not of unit length")
        if self.aspect <= 0:
            raise ValueError("a page's canvas has no width")

    def camera(self, short_side: int, patch: int) -> Camera:
        """The camera whose picture, stretched over the canvas, is what the eye sees.

        short_side: of the picture, pixels, about; both sides are multiples of `patch`.
        """
        tangent = math.tan(min(max(self.fov_y, _LEAST_FOV), _MOST_FOV) / 2)
        shape = min(max(self.aspect, 1 / _MOST_ASPECT), _MOST_ASPECT)
        width = _whole(short_side * max(shape, 1.0), patch)
        height = _whole(short_side * max(1 / shape, 1.0), patch)
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat(self.wxyz, scalar_first=True).as_matrix()
        pose[:3, 3] = self.position
        fx, fy = width / (2 * tangent * self.aspect), height / (2 * tangent)
        return Camera(width, height, fx, fy, width / 2, height / 2, pose)


def quaternion_of(camera: Camera) -> np.ndarray:
    """The unit quaternion (w, x, y, z) of a camera's orientation."""
    return Rotation.from_matrix(camera.c2w_cv[:3, :3]).as_quat(scalar_first=True)


def fitting_fov(camera: Camera, aspect: float) -> float:
    """The vertical field of view, in radians, of a canvas that shows about what `camera` saw.

    The solid angle is kept, not the height: a wide canvas would otherwise look far beyond the sides
    of an upright capture, where nothing was ever seen.
    """
    tangents = camera.width / (2 * camera.fx), camera.height / (2 * camera.fy)
    tangent = math.sqrt(tangents[0] * tangents[1] / max(aspect, 1e-3))
    return min(max(2 * math.atan(tangent), _LEAST_FOV), _MOST_FOV)


def frusta(cameras: list[Camera], depth: float) -> np.ndarray:
    """Line segments [8 * cameras, 2, 3] in the world: four edges and the far side of each."""
    lines = np.empty((len(cameras), 8, 2, 3), np.float32)
    for place, camera in enumerate(cameras):
        right, below = camera.width, camera.height
        corners = camera.unproject(
            np.array([[0, 0], [right, 0], [right, below], [0, below]]), np.full(4, depth)
        )
        lines[place, :4, 0], lines[place, :4, 1] = camera.centre, corners
        lines[place, 4:, 0], lines[place, 4:, 1] = corners, np.roll(corners, -1, axis=0)
    return lines.reshape(-1, 2, 3)


def _whole(pixels: float, patch: int) -> int:
    return max(2, round(pixels / patch)) * patch
