"""Where the pool's scenes come from: the procedural worlds, and shards."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from everview.datasets.procedural import draw_cameras, draw_scenes, leave_out, render_views
from everview.pipeline.training.block_stream import block_stream
from everview.pipeline.training.config import DataConfig, World
from everview.pipeline.training.scene_pool import SceneViews, StreamBlocks
from everview.pipeline.training.stored_scenes import StoredScenes


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
    scenes = leave_out(draw_scenes(world.name, seeds.tolist(), world.dynamic), world.without)
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


def stored_scenes(data: DataConfig, seed: int) -> StreamBlocks | None:
    """Blocks of scenes from the shards in `data.shards`, made ahead of their use; None without.

    Raises UsageError when a set is held out, has another size, or no scene with enough views.
    """
    if not data.shards:
        return None
    sets = StoredScenes(data, seed)
    return partial(block_stream, sets.make)
