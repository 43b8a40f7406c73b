"""Where the pool's scenes come from: the procedural worlds, and shards of scanned objects."""

from __future__ import annotations

import numpy as np
import torch

from everview.datasets.procedural import draw_cameras, draw_scenes, render_views
from everview.pipeline.training.config import DataConfig, World
from everview.pipeline.training.scene_pool import SceneViews


def render_scenes(
    world: World,
    seeds: np.ndarray,
    views: int,
    size: int,
    device: torch.device,
    samples_per_pixel: int = 4,
) -> SceneViews:
    """Ray-cast `views` views of every scene of `world` with these seeds, on `device`.

    Views are in the order of their times: along the path of a video, or as they happened to be
    taken.
    """
    scenes = draw_scenes(world.name, seeds.tolist(), world.dynamic)
    cameras, time_s = draw_cameras(scenes, views, size, size, trajectory=world.trajectory)
    time_s, order = time_s.sort(dim=1)
    cameras = cameras[torch.arange(len(seeds))[:, None], order]
    rendered = render_views(scenes.to(device), cameras, time_s, samples_per_pixel)
    return SceneViews(
        images=rendered.images.movedim(-1, 2),
        # metres; beyond float16's range nothing is drawn
        depth=rendered.depth.half(),
        intrinsics=cameras.intrinsics.float().to(device),
        c2w_cv=cameras.c2w_cv.float().to(device),
        time_s=time_s.float().to(device),
        moving=torch.full((len(seeds),), world.dynamic, device=device),
    )


def scanned_scenes(data: DataConfig, seed: int, device: torch.device) -> SceneViews | None:
    """Views of scanned objects from `data.scans`, on `device`; None when there is no folder."""
    if data.scans is None:
        return None
    raise NotImplementedError
