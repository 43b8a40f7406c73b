"""Camera paths (orbit, spiral, interpolate, still), with defaults from the captured cameras.

A path stays where the capture has been: an orbit sweeps the captured azimuths at the captured
distance (a closed circle only where the capture went round), a spiral keeps to the spread of the
cameras, and `interpolate` turns about the target instead of cutting through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.spatial.transform import Rotation, Slerp

from everview.datasets.cameras import Camera
from everview.pipeline.rendering.survey import Survey, Turntable, look_at

PATH_NAMES = ("orbit", "spiral", "interpolate", "still")

_FULL_CIRCLE = np.deg2rad(270)  # azimuths covered from which an orbit closes
_OUTWARD_SWEEP = np.deg2rad(20)  # either side, for captures that don't look at one point
_OVERHEAD = np.deg2rad(75)  # azimuth means nothing above this elevation


@dataclass(frozen=True, eq=False)
class CameraPath:
    """Cameras to render in order, and the time each one looks at (None: no time given)."""

    name: str
    cameras: tuple[Camera, ...]
    time_s: tuple[float | None, ...]
    is_closed: bool = False

    def __post_init__(self) -> None:
        if len(self.cameras) != len(self.time_s):
            raise ValueError(f"{len(self.cameras)} cameras and {len(self.time_s)} times in a path")


def orbit(layout: Survey, frames: int, time_s: float | None = None) -> CameraPath:
    """Around the target at the captured distance and height, always looking at it.

    Goes round where the captured azimuths cover three quarters of a circle; otherwise swings over
    the covered range and back, so that the last frame meets the first in either case.
    """
    table, elevation = Turntable.of(layout), _median_elevation(layout)
    low, high, is_full = _azimuth_range(layout, table)
    phase = 2 * np.pi * np.arange(frames) / frames
    centre, half = (low + high) / 2, (high - low) / 2
    azimuths = phase if is_full else centre + half * np.sin(phase)
    positions = [table.point(azimuth, elevation, layout.radius) for azimuth in azimuths]
    return _looking_at_target("orbit", layout, positions, time_s)


def spiral(layout: Survey, frames: int, time_s: float | None = None) -> CameraPath:
    """Two turns that climb through the captured elevations, or, for a capture seen from one side,
    two loops in front of the middle camera that also move towards the scene and back."""
    table = Turntable.of(layout)
    _, _, is_full = _azimuth_range(layout, table)
    phase = 4 * np.pi * np.arange(frames) / frames
    if is_full:
        _, elevations, _ = table.angles(_centres(layout))
        low, high = np.percentile(elevations, [10, 90])
        climb = (low + high) / 2 - (high - low) / 2 * np.cos(phase / 2)
        climb = np.clip(climb, -_OVERHEAD, _OVERHEAD)
        positions = [
            table.point(azimuth, elevation, layout.radius)
            for azimuth, elevation in zip(phase, climb, strict=True)
        ]
        return _looking_at_target("spiral", layout, positions, time_s)
    pose = layout.middle.c2w_cv
    offsets = (_centres(layout) - pose[:3, 3]) @ pose[:3, :3]
    # the capture's own spread, but never so wide that the target leaves the picture
    reach = np.minimum(np.percentile(np.abs(offsets), 80, axis=0), 0.15 * layout.radius)
    reach = np.maximum(reach, 0.02 * layout.radius)
    swing = np.stack([np.cos(phase), np.sin(phase), np.sin(phase / 2)], axis=1) * reach
    positions = [_no_nearer(layout, point) for point in pose[:3, 3] + swing @ pose[:3, :3].T]
    return _looking_at_target("spiral", layout, positions, time_s)


def interpolate(
    layout: Survey, frames: int, time_s: float | None = None, keys: int = 24
) -> CameraPath:
    """Smoothly through captured cameras, in their order.

    Rotations by slerp; positions by a monotone cubic (PCHIP), which never overshoots its keys. For
    cameras around a target the cubic runs on the target as each camera sees it, so that the path
    turns about the target and can't cut through it. Cameras that jump about (renderings of an
    object at random angles) are first put in order of nearness.

    The path follows the captured times when all are known and no `time_s` is given.
    keys: captured cameras used at most, evenly taken.
    """
    order = _smooth_order(layout)
    chosen = np.unique(np.linspace(0, len(order) - 1, min(keys, len(order))).round().astype(int))
    keyed = [layout.cameras[order[i]] for i in chosen]
    if len(keyed) == 1:
        return CameraPath("interpolate", (keyed[0],) * frames, (time_s,) * frames)
    rotations = np.stack([camera.c2w_cv[:3, :3] for camera in keyed])
    centres = np.stack([camera.centre for camera in keyed])
    knots = _knots(centres, rotations, layout.radius)
    at = np.linspace(0, knots[-1], frames)
    turned = Slerp(knots, Rotation.from_matrix(rotations))(at).as_matrix()
    if layout.is_inward:
        seen = np.einsum("nij,ni->nj", rotations, layout.target - centres)
        moved = layout.target - np.einsum("nij,nj->ni", turned, PchipInterpolator(knots, seen)(at))
    else:
        moved = PchipInterpolator(knots, centres)(at)
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = turned, moved
    cameras = tuple(layout.middle.moved(pose) for pose in poses)
    clock: tuple[float | None, ...] = (time_s,) * frames
    known = [layout.times_s[order[i]] for i in chosen]
    if time_s is None and all(value is not None for value in known):
        clock = tuple(np.interp(at, knots, np.asarray(known, np.float64)).tolist())
    return CameraPath("interpolate", cameras, clock)


def still(layout: Survey, frames: int, time_s: float | None = None) -> CameraPath:
    """The middle camera, as often as asked: what changes is the time."""
    return CameraPath("still", (layout.middle,) * frames, (time_s,) * frames, is_closed=True)


def _looking_at_target(
    name: str, layout: Survey, positions: Sequence[np.ndarray], time_s: float | None
) -> CameraPath:
    cameras = tuple(
        layout.middle.moved(look_at(position, layout.target, layout.up)) for position in positions
    )
    return CameraPath(name, cameras, (time_s,) * len(cameras), is_closed=True)


def _no_nearer(layout: Survey, point: np.ndarray) -> np.ndarray:
    """`point`, moved away from an inward capture's target to the nearest captured distance."""
    if not layout.is_inward:
        return point
    closest = np.linalg.norm(_centres(layout) - layout.target, axis=1).min()
    offset = point - layout.target
    return layout.target + offset * max(1.0, closest / np.linalg.norm(offset))


def _centres(layout: Survey) -> np.ndarray:
    return np.stack([camera.centre for camera in layout.cameras])


def _median_elevation(layout: Survey) -> float:
    centres = _centres(layout) if layout.is_inward else layout.middle.centre[None]
    _, elevations, _ = Turntable.of(layout).angles(centres)
    return float(np.clip(np.median(elevations), -_OVERHEAD, _OVERHEAD))


def _azimuth_range(layout: Survey, table: Turntable) -> tuple[float, float, bool]:
    """Lowest and highest captured azimuth (the range may pass pi) and whether it closes."""
    if not layout.is_inward:
        return -_OUTWARD_SWEEP, _OUTWARD_SWEEP, False
    azimuths, elevations, _ = table.angles(_centres(layout))
    azimuths = np.sort(azimuths[np.abs(elevations) < _OVERHEAD])
    if len(azimuths) < 2:
        return -_OUTWARD_SWEEP, _OUTWARD_SWEEP, False
    gaps = np.diff(azimuths, append=azimuths[0] + 2 * np.pi)
    widest = int(np.argmax(gaps))
    low = azimuths[(widest + 1) % len(azimuths)]
    covered = 2 * np.pi - gaps[widest]
    return float(low), float(low + covered), bool(covered >= _FULL_CIRCLE)


def _knots(centres: np.ndarray, rotations: np.ndarray, radius: float) -> np.ndarray:
    """Strictly increasing parameters [N]: distance travelled plus angle turned, for even speed."""
    travelled = np.linalg.norm(np.diff(centres, axis=0), axis=1) / max(radius, 1e-12)
    relative = Rotation.from_matrix(rotations[:-1]).inv() * Rotation.from_matrix(rotations[1:])
    steps = travelled + relative.magnitude()
    return np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-6))])


def _smooth_order(layout: Survey) -> list[int]:
    """Capture order, or a walk by nearness where the capture order jumps about."""
    centres, count = _centres(layout), len(layout.cameras)
    if not layout.is_inward or count < 8:
        return list(range(count))
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    if np.median(steps) < 3 * np.median(distance.min(axis=1)):
        return list(range(count))
    order, left = [0], set(range(1, count))
    while left:
        here = order[-1]
        order.append(min(left, key=lambda other: distance[here, other]))
        left.remove(order[-1])
    return order
