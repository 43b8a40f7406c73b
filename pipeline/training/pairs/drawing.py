"""Pairs of views from the scene pool: neighbours of a stream, or two views of one place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from everview.pipeline.training.pairs.config import PairAugmentation, PairTrainConfig
from everview.pipeline.training.pairs.truth import PairViews
from everview.pipeline.training.scene_pool import ScenePool, SceneViews


def draw_pairs(
    pool: ScenePool, config: PairTrainConfig, size: int, generator: torch.Generator
) -> PairViews:
    """`config.pairs` pairs at this size, augmented. generator: on the CPU, so that all devices
    draw alike."""
    count, views = config.pairs, pool.storage.views
    scenes = torch.randint(pool.storage.scenes, (count,), generator=generator)
    first = torch.randint(views, (count,), generator=generator)
    apart = torch.randint(1, views, (count,), generator=generator)
    pairs = chosen_pairs(pool.storage, scenes, first, (first + apart) % views, size)
    return _augmented(pairs, config.augmentation, generator)


def chosen_pairs(
    storage: SceneViews, scenes: Tensor, first: Tensor, second: Tensor, size: int
) -> PairViews:
    """Views `first` and `second` of `scenes`, all [P], pictures reduced to `size`."""
    device = storage.images.device
    scenes, first, second = scenes.to(device), first.to(device), second.to(device)
    whole = storage.images.shape[-1]
    images, intrinsics = [], []
    for view in (first, second):
        taken = storage.images[scenes, view].float() / 255.0
        if size != whole:
            taken = functional.interpolate(
                taken, (size, size), mode="bilinear", antialias=True, align_corners=False
            )
        images.append(taken)
        intrinsics.append(storage.intrinsics[scenes, view] * (size / whole))
    poses_a, poses_b = (storage.c2w_cv[scenes, view].double() for view in (first, second))
    motion = torch.linalg.inv_ex(poses_b).inverse @ poses_a
    return PairViews(
        images_a=images[0],
        images_b=images[1],
        depth_a=storage.depth[scenes, first],
        depth_b=storage.depth[scenes, second],
        intrinsics_a=intrinsics[0],
        intrinsics_b=intrinsics[1],
        motion=motion.float(),
    )


def _augmented(pairs: PairViews, config: PairAugmentation, generator: torch.Generator) -> PairViews:
    both = torch.cat([pairs.images_a, pairs.images_b])
    device, count = both.device, len(both)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator).to(device)

    gain = (config.gain * normal(1, 1, 1) + config.gain / 3 * normal(3, 1, 1)).exp()
    seen = (both.clamp(min=1e-4) ** (config.gamma * normal(1, 1, 1)).exp() * gain).clamp(max=1.0)
    is_blurred = torch.rand(2, count, generator=generator).to(device) < config.blur_share
    seen = torch.where(is_blurred[0, :, None, None, None], _smooth(seen, (1, 3)), seen)
    seen = torch.where(is_blurred[1, :, None, None, None], _smooth(seen, (3, 1)), seen)
    level = config.noise * torch.rand(count, 1, 1, 1, generator=generator).to(device)
    noise = torch.randn(seen.shape, device=device) if device.type == "cuda" else torch.randn(
        seen.shape, generator=generator
    )  # fmt: skip
    images_a, images_b = (seen + level * noise).clamp(0, 1).chunk(2)
    return PairViews(
        images_a, images_b, pairs.depth_a, pairs.depth_b, pairs.intrinsics_a, pairs.intrinsics_b,
        pairs.motion,
    )  # fmt: skip


def _smooth(images: Tensor, window: tuple[int, int]) -> Tensor:
    rows, columns = window[0] // 2, window[1] // 2
    padded = functional.pad(images, (columns, columns, rows, rows), mode="replicate")
    return functional.avg_pool2d(padded, window, stride=1)
