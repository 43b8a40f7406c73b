"""Cameras for procedural scenes: views at random for training, smooth video for captures.

`video` poses are a function of the frame's index alone, so a capture of any length is made frame by
frame; they follow closed curves and may go on for ever. World axes are z up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.datasets.procedural.draws import Draws
from everview.datasets.procedural.scenes import SHELL_POSE, SceneBatch

FRAMES_PER_S = 10.0
# Views drawn at random see the scene within this time.
_RANDOM_SPAN_S = 6.0
_WAYPOINTS = 10
_FIELD_OF_VIEW_DEG = {"orbit": (36.0, 58.0), "tabletop": (40.0, 68.0), "room": (42.0, 76.0)}


def look_at(eye: np.ndarray, target: np.ndarray, roll: np.ndarray | float = 0.0) -> np.ndarray:
    """`c2w_cv` [..., 4, 4] at `eye` [..., 3] looking at `target`, z upwards, rolled (radians)."""
    forward = target - eye
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    length = np.linalg.norm(right, axis=-1, keepdims=True)
    # straight up or down: any horizontal direction will do
    right = np.where(length > 1e-6, right / np.maximum(length, 1e-6), [1.0, 0.0, 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll)[..., None], np.sin(roll)[..., None]
    pose = np.zeros((*eye.shape[:-1], 4, 4))
    pose[..., :3, 0] = c * right + s * down
    pose[..., :3, 1] = c * down - s * right
    pose[..., :3, 2] = forward
    pose[..., :3, 3] = eye
    pose[..., 3, 3] = 1.0
    return pose


def draw_cameras(
    scenes: SceneBatch,
    num_views: int,
    width: int,
    height: int,
    *,
    trajectory: str = "random",
    seeds: Sequence[int] | None = None,
    first_frame: int = 0,
) -> tuple[Cameras, Tensor]:
    """Cameras [B, V] and times [B, V] seconds (float64, CPU).

    trajectory: "random", near enough to share content, in no order; "video", frames first_frame...
    of one smooth path at 10 frames/s. seeds [B]: default the scenes' own; the lens depends on them.
    """
    seeds = scenes.seeds if seeds is None else seeds
    draws = Draws(seeds, purpose=21, columns=400 + 24 * num_views)
    degrees = draws.uniform(
        low=_FIELD_OF_VIEW_DEG[scenes.world][0], high=_FIELD_OF_VIEW_DEG[scenes.world][1]
    )
    focal = 0.5 * min(width, height) / np.tan(np.radians(degrees) / 2.0)
    paths = {
        ("orbit", "random"): _orbit_random,
        ("orbit", "video"): _orbit_video,
        ("tabletop", "random"): _table_random,
        ("tabletop", "video"): _table_video,
        ("room", "random"): _walk_random,
        ("room", "video"): _walk_video,
    }
    if (scenes.world, trajectory) not in paths:
        raise ValueError(f"no trajectory '{trajectory}': use 'random' or 'video'")
    frames = np.arange(first_frame, first_frame + num_views, dtype=np.float64)
    poses = paths[scenes.world, trajectory](draws, scenes, frames, np.radians(degrees))
    if trajectory == "video":
        time_s = np.broadcast_to(frames / FRAMES_PER_S, (len(scenes), num_views)).copy()
    else:
        time_s = draws.uniform(num_views, high=_RANDOM_SPAN_S)
    centre = np.array([width / 2.0, height / 2.0])
    intrinsics = np.concatenate(
        [
            np.repeat(focal[:, None, None], 2, -1) * np.ones((1, num_views, 1)),
            np.broadcast_to(centre, (len(scenes), num_views, 2)),
        ],
        -1,
    )
    cameras = Cameras(width, height, torch.from_numpy(intrinsics), torch.from_numpy(poses))
    return cameras, torch.from_numpy(time_s)


def _spherical(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], -1)


def _fit_distance(scenes: SceneBatch, field_of_view: np.ndarray) -> np.ndarray:
    """[B]: from where the scene's extent fills the picture."""
    return scenes.extent.numpy() / np.sin(field_of_view / 2.0)


def _orbit_random(
    draws: Draws, scenes: SceneBatch, frames: np.ndarray, field_of_view: np.ndarray
) -> np.ndarray:
    views = len(frames)
    azimuth = draws.uniform(views, high=2.0 * np.pi)
    elevation = np.arcsin(draws.uniform(views, low=-0.45, high=0.95))
    distance = _fit_distance(scenes, field_of_view)[:, None] * draws.uniform(1, low=0.95, high=1.3)
    distance = distance * draws.uniform(views, low=0.92, high=1.1)
    target = scenes.focus.numpy()[:, None] + 0.05 * draws.normal(views, 3)
    eye = target + _spherical(azimuth, elevation) * distance[..., None]
    return look_at(eye, target, 0.05 * draws.normal(views))


def _orbit_video(
    draws: Draws, scenes: SceneBatch, frames: np.ndarray, field_of_view: np.ndarray
) -> np.ndarray:
    start = draws.uniform(1, high=2.0 * np.pi)
    step = np.radians(draws.uniform(1, low=5.0, high=9.0))
    middle = draws.uniform(1, low=0.15, high=0.5)
    azimuth = start + step * frames
    elevation = middle + 0.35 * np.sin(0.37 * step * frames + start)
    distance = _fit_distance(scenes, field_of_view)[:, None] * draws.uniform(1, low=1.0, high=1.25)
    target = np.broadcast_to(scenes.focus.numpy()[:, None], (*azimuth.shape, 3))
    return look_at(target + _spherical(azimuth, elevation) * distance[..., None], target)


def _table_random(
    draws: Draws, scenes: SceneBatch, frames: np.ndarray, field_of_view: np.ndarray
) -> np.ndarray:
    """Views on a band of azimuth: from a narrow forward-facing one to all around."""
    views = len(frames)
    span = np.where(draws.chance(0.35), 2.0 * np.pi, draws.uniform(low=0.6, high=4.0))
    azimuth = draws.uniform(1, high=6.3) + span[:, None] * draws.uniform(views)
    elevation = draws.uniform(1, low=0.25, high=0.8) + 0.3 * draws.uniform(views, low=-1.0)
    elevation = np.clip(elevation, 0.1, 1.3)
    near = draws.uniform(1, low=0.55, high=1.15)
    distance = _fit_distance(scenes, field_of_view)[:, None] * near
    distance = distance * draws.uniform(views, low=0.8, high=1.2)
    extent = scenes.extent.numpy()[:, None, None]
    target = scenes.focus.numpy()[:, None] + 0.22 * extent * draws.normal(views, 3) * [1, 1, 0.4]
    eye = scenes.focus.numpy()[:, None] + _spherical(azimuth, elevation) * distance[..., None]
    return look_at(_inside(scenes, eye), target, 0.04 * draws.normal(views))


def _table_video(
    draws: Draws, scenes: SceneBatch, frames: np.ndarray, field_of_view: np.ndarray
) -> np.ndarray:
    start = draws.uniform(1, high=2.0 * np.pi)
    step = np.radians(draws.uniform(1, low=2.5, high=6.0))
    azimuth = start + step * frames
    elevation = draws.uniform(1, low=0.35, high=0.7) + 0.2 * np.sin(0.41 * step * frames)
    near = draws.uniform(1, low=0.75, high=1.05) * (1.0 + 0.12 * np.sin(0.23 * step * frames))
    distance = _fit_distance(scenes, field_of_view)[:, None] * near
    extent = scenes.extent.numpy()[:, None]
    drift = [np.sin(0.31 * step * frames + start), np.cos(0.27 * step * frames), 0.0 * azimuth]
    target = scenes.focus.numpy()[:, None] + 0.2 * extent[..., None] * np.stack(drift, -1)
    eye = scenes.focus.numpy()[:, None] + _spherical(azimuth, elevation) * distance[..., None]
    return look_at(_inside(scenes, eye), target)


def _inside(scenes: SceneBatch, eye: np.ndarray, margin: float = 0.05) -> np.ndarray:
    """`eye` [B, V, 3] kept inside the shell."""
    centre = scenes.centre[:, None, SHELL_POSE].numpy()
    half = scenes.half_size[:, None, SHELL_POSE].numpy() * (1.0 - margin)
    return np.clip(eye, centre - half, centre + half)


def _walk(
    draws: Draws, scenes: SceneBatch, travelled_m: np.ndarray, clock: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A person's way round the room: eye [B, V, 3], yaw and pitch [B, V] at path lengths [B, V].

    Waypoints lie on a ring inside the free floor; a closed cubic B-spline rounds the corners. The
    head looks along the path, and aside: `clock` [B, V] in frames drives fast turns of the head.
    """
    centre = scenes.centre[:, SHELL_POSE].numpy()
    free = np.maximum(scenes.half_size[:, SHELL_POSE].numpy()[:, :2] - 1.0, 0.3)
    angle = 2.0 * np.pi * (np.arange(_WAYPOINTS) + draws.uniform(_WAYPOINTS, low=-0.35, high=0.35))
    angle = angle / _WAYPOINTS + draws.uniform(1, high=6.3)
    radius = draws.uniform(_WAYPOINTS, low=0.35, high=1.0)
    ring = radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1) * free[:, None]
    length = np.linalg.norm(ring - np.roll(ring, 1, 1), axis=-1).sum(1)[:, None]
    position = (travelled_m / length) % 1.0 * _WAYPOINTS
    start = np.floor(position).astype(np.int64)
    f = position - start
    g = 1.0 - f
    rows = np.arange(len(ring))[:, None]
    knots = [ring[rows, (start + k) % _WAYPOINTS] for k in range(4)]
    at = (g**3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3)
    slope = (-(g**2), 3 * f**2 - 4 * f, -3 * f**2 + 2 * f + 1, f**2)
    floor = sum(w[..., None] * k for w, k in zip(at, knots, strict=True)) / 6.0
    ahead = sum(w[..., None] * k for w, k in zip(slope, knots, strict=True))

    eye_height = draws.uniform(1, low=1.3, high=1.7)
    bob = 0.03 * np.sin(1.3 * clock)
    base = centre[:, None, 2] - scenes.half_size[:, None, SHELL_POSE, 2].numpy()
    eye = np.concatenate([centre[:, None, :2] + floor, (base + eye_height + bob)[..., None]], -1)
    sway = draws.uniform(1, low=0.4, high=1.1)
    slow, fast = draws.uniform(1, low=0.05, high=0.12), draws.uniform(1, low=0.2, high=0.4)
    phase = draws.uniform(2, 1, high=6.3)
    aside = sway * np.sin(slow * clock + phase[:, 0]) + 0.3 * np.sin(fast * clock + phase[:, 1])
    yaw = np.arctan2(ahead[..., 1], ahead[..., 0]) + aside
    pitch = draws.uniform(1, low=-0.42, high=-0.1) + 0.16 * np.sin(0.7 * fast * clock + phase[:, 1])
    return eye, yaw, pitch


def _walk_video(
    draws: Draws, scenes: SceneBatch, frames: np.ndarray, field_of_view: np.ndarray
) -> np.ndarray:
    step_m = draws.uniform(1, low=0.10, high=0.20)
    begin = draws.uniform(1, high=10.0)
    clock = np.broadcast_to(frames, (len(scenes), len(frames)))
    eye, yaw, pitch = _walk(draws, scenes, begin + step_m * frames, clock)
    return look_at(eye, eye + _spherical(yaw, pitch))


def _walk_random(
    draws: Draws, scenes: SceneBatch, frames: np.ndarray, field_of_view: np.ndarray
) -> np.ndarray:
    """Views off a piece of a walk, in no order, a step aside and turned by up to half a view."""
    views = len(frames)
    reach = draws.log_uniform(1, low=0.6, high=6.0)
    share = draws.uniform(views)
    begin = draws.uniform(1, high=10.0)
    eye, yaw, pitch = _walk(draws, scenes, begin + reach * share, (reach / 0.15) * share)
    eye = _inside(scenes, eye + draws.normal(views, 3) * [0.14, 0.14, 0.08], 0.1)
    loose = field_of_view[:, None] * 0.35
    yaw = yaw + loose * draws.normal(views)
    pitch = pitch + 0.4 * loose * draws.normal(views)
    return look_at(eye, eye + _spherical(yaw, pitch), 0.03 * draws.normal(views))
