"""Where the pool's scenes come from: the procedural worlds, and shards of scanned objects."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from everview.datasets.procedural import draw_cameras, draw_scenes, render_views
from everview.datasets.shards import open_shards
from everview.pipeline.errors import UsageError
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
    scenes = draw_scenes(
        world.name,
        seeds.tolist(),
        world.dynamic,
        boolean_cuts=world.boolean_cuts,
        height_fields=world.height_fields,
    )
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
    """Views of scanned objects from the shards in `data.scans`, on `device`; None without a folder.

    Each object's views are cut into disjoint scenes of `data.views`; of these, `data.scan_scenes`
    at most are kept, chosen by `seed`. Raises UsageError when size or number of views don't fit.
    """
    if data.scans is None:
        return None
    shards = open_shards(data.scans)
    manifest = shards.manifest
    if (manifest.width, manifest.height) != (data.size, data.size):
        raise UsageError(
            f"{data.scans} holds views of {manifest.width}x{manifest.height} pixels, but the "
            f"recipe trains at {data.size}; render the shards again at that size"
        )
    parts = manifest.views_per_scene // data.views
    if parts == 0:
        raise UsageError(
            f"{data.scans} holds {manifest.views_per_scene} views a scene, but the recipe wants "
            f"{data.views}; render more or lower --data.views"
        )
    loaded = shards.load()
    count = len(shards) * parts
    random = np.random.default_rng([seed, count])
    chosen = torch.from_numpy(random.permutation(count)[: data.scan_scenes])

    def cut(values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """[S, V, ...] to the chosen scenes [S', M, ...] on the device."""
        used = values[:, : parts * data.views]
        scenes = used.reshape(count, data.views, *used.shape[2:])[chosen]
        return scenes.to(device, dtype or scenes.dtype)

    time_s = cut(loaded.time_s, torch.float32)
    return SceneViews(
        images=cut(loaded.images.movedim(-1, 2)),
        depth=cut(loaded.depth, torch.float16),
        intrinsics=cut(loaded.cameras.intrinsics, torch.float32),
        c2w_cv=cut(loaded.cameras.c2w_cv, torch.float32),
        time_s=time_s,
        moving=torch.zeros(len(time_s), dtype=torch.bool, device=device),
    )
