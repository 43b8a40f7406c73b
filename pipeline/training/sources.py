"""Where the pool's scenes come from: the procedural worlds, and shards of scanned objects."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from everview.datasets.procedural import draw_cameras, draw_scenes, render_views
from everview.datasets.shards import PosedScene, open_shards
from everview.pipeline.errors import UsageError
from everview.pipeline.training.config import DataConfig, World
from everview.pipeline.training.ranks import Share
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


def scanned_scenes(
    data: DataConfig, seed: int, device: torch.device, share: Share | None = None
) -> SceneViews | None:
    """Views of scenes from the shards in `data.scans`, on `device`; None without a place.

    Each scene's views are cut into disjoint ones of `data.views`; of these, `data.scan_scenes` at
    most are kept, chosen by `seed` and dealt to the pool's parts in turn (the first ones twice
    where they don't go round). share: of the parts, in whose order the scenes are. Raises
    UsageError when the set is held out, has another size, or no scene with enough views.
    """
    if data.scans is None:
        return None
    shards = open_shards(data.scans)
    manifest = shards.manifest
    if manifest.split == "held_out":
        raise UsageError(f"{data.scans} holds what is never trained on; prepare the training split")
    if (manifest.width, manifest.height) != (data.size, data.size):
        raise UsageError(
            f"{data.scans} holds views of {manifest.width}x{manifest.height} pixels, but the "
            f"recipe trains at {data.size}; prepare it again with --size {data.size}"
        )
    parts = [
        (index, part)
        for index, scene in enumerate(manifest.scenes)
        for part in range(scene.views // data.views)
    ]
    if not parts:
        most = max(scene.views for scene in manifest.scenes)
        raise UsageError(
            f"{data.scans} holds at most {most} views a scene, but the recipe wants {data.views}; "
            "prepare it with more --views or lower --data.views"
        )
    random = np.random.default_rng([seed, len(parts)])
    kept = random.permutation(len(parts))[: data.scan_scenes]
    dealt = np.resize(kept, (-(-len(kept) // data.parts), data.parts)).T
    chosen = dealt[(share or Share()).positions].ravel()
    made: dict[int, SceneViews] = {}
    # in the order of the shards, so that each is read once
    for number in sorted(set(chosen.tolist())):
        index, part = parts[number]
        made[number] = _stored(shards.scene(index), part, data.views, device)
    ordered = [made[number] for number in chosen.tolist()]
    return SceneViews(
        **{
            field.name: torch.cat([getattr(views, field.name) for views in ordered])
            for field in fields(SceneViews)
        }
    )


def _stored(scene: PosedScene, part: int, views: int, device: torch.device) -> SceneViews:
    """Views [part * views, (part + 1) * views) of a scene as one scene of the pool."""
    chosen = slice(part * views, (part + 1) * views)

    def cut(values: np.ndarray | Tensor, dtype: torch.dtype | None = None) -> Tensor:
        tensor = torch.as_tensor(values)[chosen][None]
        return tensor.to(device, dtype or tensor.dtype)

    images = torch.from_numpy(scene.images).movedim(-1, 1)
    size = (scene.views, *scene.images.shape[1:3])
    depth = np.zeros(size, np.float32) if scene.depth is None else scene.depth
    time_s = np.full(scene.views, np.nan) if scene.time_s is None else scene.time_s
    return SceneViews(
        images=cut(images),
        depth=cut(depth, torch.float16),
        intrinsics=cut(scene.cameras.intrinsics, torch.float32),
        c2w_cv=cut(scene.cameras.c2w_cv, torch.float32),
        time_s=cut(time_s, torch.float32),
        moving=torch.zeros(1, dtype=torch.bool, device=device),
    )
