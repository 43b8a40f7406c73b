"""Scenes, cameras and pictures in one call: what a trainer asks for at every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.datasets.procedural.rendering import render_views
from everview.datasets.procedural.scenes import draw_scenes
from everview.datasets.procedural.trajectories import draw_cameras


def render_episode_views(
    world: str,
    seeds: Sequence[int],
    num_views: int,
    size: int,
    dynamic: bool = False,
    device: torch.device | str = "cpu",
    *,
    trajectory: str = "random",
    samples_per_pixel: int = 4,
) -> tuple[Tensor, Tensor, Cameras, Tensor]:
    """Fresh scenes, one per seed, seen from `num_views` cameras each.

    Returns images uint8 [B, V, H, W, 3], depth float32 [B, V, H, W] (0 at the sky), cameras and
    times [B, V] (float64), all on `device`.
    """
    scenes = draw_scenes(world, seeds, dynamic)
    cameras, time_s = draw_cameras(scenes, num_views, size, size, trajectory=trajectory)
    scenes, cameras, time_s = scenes.to(device), cameras.to(device), time_s.to(device)
    views = render_views(scenes, cameras, time_s, samples_per_pixel)
    return views.images, views.depth, cameras, time_s
