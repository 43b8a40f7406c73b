"""The scene pool: every view that training can draw from, resident on the device.

Loading is what usually starves a small model's training. Here views are 8-bit images and 16-bit
depths in one tensor on the device, an episode is an index into it, and new scenes are ray-cast in
place, a block at a time, so that no scene is seen more than a bounded number of times.

What the pool holds is a function of (seed, step): block k of the endless sequence of blocks has a
fixed world and fixed scene seeds, lies in part k % parts of the pool, and is replaced, together
with one block of every other part, every `interval` steps. A resumed run rebuilds the same pool,
and of several ranks each holds and renders the parts that its share of a batch draws from. Scenes
from shards lie behind the procedural ones, in parts and blocks of the same kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count

import numpy as np
import torch
from torch import Tensor

from everview.pipeline.training.config import DataConfig, World
from everview.pipeline.training.mixing import golden_choice
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


def joined(scenes: Sequence[SceneViews]) -> SceneViews:
    """All scenes, one after the other."""
    return SceneViews(
        **{
            field.name: torch.cat([getattr(views, field.name) for views in scenes])
            for field in fields(SceneViews)
        }
    )


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


StreamBlocks = Callable[[Iterator[int]], Iterator[SceneViews]]
"""Numbers of blocks to those blocks of stored scenes, in order, on any device."""


class ScenePool:
    """Procedural scenes followed by stored ones, both replaced round robin.

    share: of the pool's parts. stored: blocks of scenes from shards, where there are any.
    """

    def __init__(
        self,
        config: DataConfig,
        seed: int,
        device: torch.device,
        render: RenderScenes,
        stored: StreamBlocks | None = None,
        share: Share | None = None,
    ) -> None:
        self.config = config
        self.share = share or Share()
        self._parts = range(config.parts)[self.share.positions]
        self.part_scenes = config.pool_scenes // config.parts
        self.procedural = self.part_scenes * len(self._parts)
        self._part_stored = 0 if stored is None else config.stored_scenes // config.parts
        self.stored = self._part_stored * len(self._parts)
        self._seed = seed
        self.render = render
        self._stream = stored
        self._blocks: Iterator[SceneViews] | None = None
        self._filled = 0
        self._filled_stored = 0
        self.fed_s = 0.0
        """time that the host spent in `advance`: rendering, and waiting for stored scenes"""
        self.storage = empty_views(self.procedural + self.stored, config.views, config.size, device)

    @property
    def device(self) -> torch.device:
        """Where the views are."""
        return self.storage.images.device

    @property
    def interval(self) -> int:
        """Steps between two rounds of replacement, one block of every part: so many that a scene
        is seen `reuse` times on average, less where shapes of fewer scenes are drawn. All ranks
        render at the same step, and none waits."""
        scenes = max(shape.scenes for shape in self.config.shapes)
        replaced = self.config.refresh_scenes * self.config.parts
        return max(1, round(self.config.reuse * replaced / scenes))

    def advance(self, step: int) -> int:
        """Bring the pool to where step `step` finds it; the number of scenes made for that."""
        started = time.monotonic()
        replaced = step // self.interval
        made = 0
        rounds = self.part_scenes // self.config.refresh_scenes
        for number in range(max(self._filled, replaced), rounds + replaced):
            for place, part in enumerate(self._parts):
                slot = place * rounds + number % rounds
                self._render(number * self.config.parts + part, slot)
                made += 1
        self._filled = max(self._filled, rounds + replaced)
        made += self._advance_stored(replaced)
        self.fed_s += time.monotonic() - started
        return made * self.config.refresh_scenes

    def _advance_stored(self, replaced: int) -> int:
        rounds = self._part_stored // self.config.refresh_scenes
        first = max(self._filled_stored, replaced)
        if rounds == 0 or first >= rounds + replaced:
            return 0
        if self._blocks is None:
            assert self._stream is not None
            numbers = (n * self.config.parts + part for n in count(first) for part in self._parts)
            self._blocks = self._stream(numbers)
        made = 0
        for number in range(self._filled_stored or first, rounds + replaced):
            for place, _ in enumerate(self._parts):
                block = next(self._blocks)
                if number < replaced:  # passed by: what replaced it comes too
                    continue
                slot = self.procedural // self.config.refresh_scenes + place * rounds
                self._write(slot + number % rounds, block)
                made += 1
        self._filled_stored = rounds + replaced
        return made

    def slots(self, place: Tensor) -> Tensor:
        """Procedural scenes [B] of storage for a share of a batch; place [B] in [0, 1): where in
        its part each position draws."""
        return self._local(place, self.part_scenes)

    def stored_slots(self, place: Tensor) -> Tensor:
        """The same among the stored scenes."""
        return self.procedural + self._local(place, self._part_stored)

    def _local(self, place: Tensor, each: int) -> Tensor:
        # positions of a share meet its parts in turn
        parts = torch.arange(len(place), device=place.device) % len(self._parts)
        return parts * each + (place * each).long()

    def _render(self, block: int, slot: int) -> None:
        size = self.config.refresh_scenes
        world = self.world_of(block)
        # a large odd step spreads the runs' seeds; sequences of different runs may overlap
        start = (self._seed * 7_368_787 + block * size) % (HELD_OUT_SEEDS - size)
        seeds = np.arange(start, start + size)
        self._write(
            slot, self.render(world, seeds, self.config.views, self.config.size, self.device)
        )

    def _write(self, slot: int, block: SceneViews) -> None:
        self.storage.write(slot * self.config.refresh_scenes, block)

    def world_of(self, block: int) -> World:
        """The world of block `block`: shares are met closely over any stretch of blocks."""
        worlds = self.config.worlds
        return worlds[golden_choice(block, [world.share for world in worlds])]
