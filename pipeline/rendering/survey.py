"""What the captured cameras say about a scene: where to look, which way is up, how far away.

Every default of a camera path is derived from here, so that `--path orbit` needs no numbers.
Units are those of the capture's world. Axes of a camera: OpenCV (x right, y down, z forward).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from everview.datasets.cameras import Camera

MOST_SURVEYED = 512  # more say nothing new about the layout, and the cost of a survey stays flat


@dataclass(frozen=True, eq=False)
class Survey:
    """The layout of a scene as its cameras tell it.

    target: the point looked at, [3]. up: unit vector, [3]. radius: distance from the middle camera
    to the target. is_inward: the cameras stand around the target (an object, a face of a thing)
    rather than look out from a path (a room, a walk). middle: the camera half-way through.
    times_s: when each camera was there, None where the capture has no clock.
    """

    cameras: tuple[Camera, ...]
    times_s: tuple[float | None, ...]
    target: np.ndarray
    up: np.ndarray
    radius: float
    is_inward: bool
    middle: Camera


def survey(
    cameras: Sequence[Camera],
    times_s: Sequence[float | None] | None = None,
    distance: float | None = None,
) -> Survey:
    """Survey captured cameras, in the order of the capture.

    distance: how far the scene is in front of the cameras in world units (the gauge knows), used
    when the cameras don't look at a common point; without it the spread of their centres serves.
    Raises ValueError when there is no camera.
    """
    if not cameras:
        raise ValueError("no captured cameras: a path can't be derived from nothing")
    step = -(-len(cameras) // MOST_SURVEYED)
    kept = tuple(cameras[::step])
    times = (None,) * len(kept) if times_s is None else tuple(times_s[::step])
    up = up_direction(kept)
    centres = np.stack([camera.centre for camera in kept])
    focus = common_focus(kept)
    middle = kept[len(kept) // 2]
    if focus is not None:
        radius = float(np.median(np.linalg.norm(centres - focus, axis=1)))
        return Survey(kept, times, focus, up, radius, True, middle)
    spread = float(np.linalg.norm(np.ptp(centres, axis=0)))
    radius = distance or spread or 1.0
    target = middle.centre + radius * middle.forward
    return Survey(kept, times, target, up, float(radius), False, middle)


def common_focus(cameras: Sequence[Camera]) -> np.ndarray | None:
    """The least-squares point of the optical axes [3], or None when they share none.

    They share one when nine in ten cameras have it in front of them and miss it by less than a
    quarter of its distance: the gauge's rule for the same question.
    """
    if len(cameras) < 3:
        return None
    centres = np.stack([camera.centre for camera in cameras])
    axes = np.stack([camera.forward for camera in cameras])
    projectors = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = projectors.sum(0)
    # nearly parallel axes meet nowhere in particular: the focus slides along them
    if np.linalg.eigvalsh(normal)[0] < 1e-3 * len(cameras):
        return None
    focus = np.linalg.solve(normal, np.einsum("nij,nj->i", projectors, centres))
    offset = focus - centres
    along = np.einsum("ni,ni->n", offset, axes)
    distance = np.linalg.norm(offset, axis=1)
    miss = np.sqrt(np.maximum(distance**2 - along**2, 0))
    hits = (along > 0) & (miss < 0.25 * distance)
    return focus if hits.mean() >= 0.9 else None


def up_direction(cameras: Sequence[Camera]) -> np.ndarray:
    """Unit up vector [3]: what all image rows are level to, or the cameras' mean up.

    A level camera's x axis is horizontal whatever its pitch, so up is the direction that varies
    least among the x axes; that needs x axes that turn. Cameras which roll fall back to the mean.
    """
    mean_up = -np.mean([camera.c2w_cv[:3, 1] for camera in cameras], axis=0)
    rights = np.stack([camera.c2w_cv[:3, 0] for camera in cameras])
    values, vectors = np.linalg.eigh(rights.T @ rights / len(rights))
    if values[1] > 0.02 and values[0] < 0.2 * values[1]:
        level = vectors[:, 0]
        # cameras over the poles look down as well as up: their mean still points the right way
        return level if level @ mean_up >= 0 else -level
    norm = np.linalg.norm(mean_up)
    return mean_up / norm if norm > 1e-6 else np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, eq=False)
class Turntable:
    """Spherical coordinates about a target: azimuth around `up`, elevation above its plane (rad).

    zero: the horizontal unit direction of azimuth 0.
    """

    target: np.ndarray
    up: np.ndarray
    zero: np.ndarray

    @staticmethod
    def of(layout: Survey) -> Turntable:
        """The turntable whose azimuth 0 is the middle camera's."""
        offset = layout.middle.centre - layout.target
        zero = offset - (offset @ layout.up) * layout.up
        if np.linalg.norm(zero) < 1e-6 * max(layout.radius, 1e-9):  # straight above: its own up
            zero = any_perpendicular(layout.up)
        return Turntable(layout.target, layout.up, zero / np.linalg.norm(zero))

    def angles(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Azimuth in (-pi, pi], elevation and distance of world points [N, 3]."""
        offset = np.asarray(points, np.float64) - self.target
        distance = np.linalg.norm(offset, axis=-1)
        side = np.cross(self.up, self.zero)
        azimuth = np.arctan2(offset @ side, offset @ self.zero)
        sine = np.clip((offset @ self.up) / np.maximum(distance, 1e-12), -1, 1)
        return azimuth, np.arcsin(sine), distance

    def point(self, azimuth: float, elevation: float, distance: float) -> np.ndarray:
        """World point [3] at these coordinates."""
        side = np.cross(self.up, self.zero)
        level = np.cos(azimuth) * self.zero + np.sin(azimuth) * side
        direction = np.cos(elevation) * level + np.sin(elevation) * self.up
        return self.target + distance * direction


def any_perpendicular(axis: np.ndarray) -> np.ndarray:
    """Some unit vector perpendicular to `axis` [3]."""
    other = np.eye(3)[int(np.argmin(np.abs(axis)))]
    across = np.cross(axis, other)
    return across / np.linalg.norm(across)


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """`c2w_cv` [4, 4] of a level camera at `position` that looks at `target`.

    Looking exactly along `up` has no level: any roll is as good, and one is chosen.
    """
    forward = np.asarray(target, np.float64) - position
    distance = np.linalg.norm(forward)
    if distance < 1e-12:
        raise ValueError("a camera can't look at the point where it stands")
    forward /= distance
    right = np.cross(forward, up)
    norm = np.linalg.norm(right)
    right = right / norm if norm > 1e-6 else any_perpendicular(forward)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return pose
