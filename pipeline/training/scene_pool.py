"""The scene pool: every view that training can draw from, resident on the device.

Loading is what usually starves a small model's training. Here views are 8-bit images and 16-bit
depths in one tensor on the device, an episode is an index into it, and new scenes are ray-cast in
place, a block at a time, so that no scene is seen more than a bounded number of times.

What the pool holds is a function of (seed, step): block k of the endless sequence of blocks has a
fixed world and fixed scene seeds, lies in part k % parts of the pool, and is replaced, together
with one block of every other part, every `interval` steps. A resumed run rebuilds the same pool,
and of several ranks each holds and renders the parts that its share of a batch draws from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from everview.pipeline.training.config import DataConfig, World
from everview.pipeline.training.ranks import Share

HELD_OUT_SEEDS = 10**9
"""Scene seeds from here on are never trained on."""


@dataclass(frozen=True, eq=False)
class SceneViews:
    """M views of each of S scenes, packed for storage.

    images: uint8 [S, M, 3, H, W]. depth: float16 [S, M, H, W] in world units, 0 unknown.
    intrinsics: float32 [S, M, 4], fx fy cx cy in pixels. c2w_cv: float32 [S, M, 4, 4].
    time_s: float32 [S, M], NaN where the scene has no time. moving: bool [S].
    """

    images: Tensor
    depth: Tensor
    intrinsics: Tensor
    c2w_cv: Tensor
    time_s: Tensor
    moving: Tensor

    @property
    def scenes(self) -> int:
        """S."""
        return self.images.shape[0]

    @property
    def views(self) -> int:
        """M."""
        return self.images.shape[1]

    def write(self, first: int, part: SceneViews) -> None:
        """Replace the scenes from `first` on by those of `part`."""
        for name in (field.name for field in fields(self)):
            getattr(self, name)[first : first + part.scenes].copy_(getattr(part, name))


def empty_views(scenes: int, views: int, size: int, device: torch.device) -> SceneViews:
    """Storage for `scenes` x `views` square views of `size` pixels."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return SceneViews(
        images=zeros(scenes, views, 3, size, size, dtype=torch.uint8),
        depth=zeros(scenes, views, size, size, dtype=torch.float16),
        intrinsics=zeros(scenes, views, 4),
        c2w_cv=zeros(scenes, views, 4, 4),
        time_s=zeros(scenes, views),
        moving=zeros(scenes, dtype=torch.bool),
    )


RenderScenes = Callable[[World, np.ndarray, int, int, torch.device], SceneViews]
"""(world, seeds [S], views M, size px, device) -> SceneViews: the source of procedural scenes."""


class ScenePool:
    """Procedural scenes that are replaced round robin, followed by scanned ones that stay.

    share: of the pool's parts. scans: those of the share, in order of parts (`scanned_scenes`).
    """

    def __init__(
        self,
        config: DataConfig,
        seed: int,
        device: torch.device,
        render: RenderScenes,
        scans: SceneViews | None = None,
        share: Share | None = None,
    ) -> None:
        self.config = config
        self.share = share or Share()
        self._parts = range(config.parts)[self.share.positions]
        self.part_scenes = config.pool_scenes // config.parts
        self.procedural = self.part_scenes * len(self._parts)
        self.scanned = scans.scenes if scans is not None else 0
        self._seed = seed
        self.render = render
        self._rounds = self.part_scenes // config.refresh_scenes
        self._filled = 0
        self.storage = empty_views(
            self.procedural + self.scanned, config.views, config.size, device
        )
        if scans is not None:
            self.storage.write(self.procedural, scans)

    @property
    def device(self) -> torch.device:
        """Where the views are."""
        return self.storage.images.device

    @property
    def interval(self) -> int:
        """Steps between two rounds of replacement, one block of every part: so many that a scene
        is seen `reuse` times on average. All ranks render at the same step, and none waits."""
        scenes = max(shape.scenes for shape in self.config.shapes)
        replaced = self.config.refresh_scenes * self.config.parts
        return max(1, round(self.config.reuse * replaced / scenes))

    def advance(self, step: int) -> int:
        """Bring the pool to where step `step` finds it; the number of scenes rendered for that."""
        wanted = self._rounds + step // self.interval
        first = max(self._filled, wanted - self._rounds)
        for number in range(first, wanted):
            for place, part in enumerate(self._parts):
                slot = place * self._rounds + number % self._rounds
                self._fill(number * self.config.parts + part, slot)
        self._filled = max(self._filled, wanted)
        return max(0, wanted - first) * len(self._parts) * self.config.refresh_scenes

    def slots(self, place: Tensor) -> Tensor:
        """Procedural scenes [B] of storage for a share of a batch; place [B] in [0, 1): where in
        its part each position draws."""
        return self._local(place, self.part_scenes)

    def scanned_slots(self, place: Tensor) -> Tensor:
        """The same among the scanned scenes."""
        return self.procedural + self._local(place, self.scanned // len(self._parts))

    def _local(self, place: Tensor, each: int) -> Tensor:
        # positions of a share meet its parts in turn
        parts = torch.arange(len(place), device=place.device) % len(self._parts)
        return parts * each + (place * each).long()

    def _fill(self, block: int, slot: int) -> None:
        size = self.config.refresh_scenes
        world = self.world_of(block)
        # a large odd step spreads the runs' seeds; sequences of different runs may overlap
        start = (self._seed * 7_368_787 + block * size) % (HELD_OUT_SEEDS - size)
        seeds = np.arange(start, start + size)
        views = self.render(world, seeds, self.config.views, self.config.size, self.device)
        self.storage.write(slot * size, views)

    def world_of(self, block: int) -> World:
        """The world of block `block`: shares are met closely over any stretch of blocks."""
        shares = np.cumsum([world.share for world in self.config.worlds])
        golden = (0.5 + block * 0.6180339887498949) % 1.0
        index = int(np.searchsorted(shares, golden * shares[-1], side="right"))
        return self.config.worlds[min(index, len(self.config.worlds) - 1)]
