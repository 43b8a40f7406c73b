"""Feeding: episodes drawn from the scene pool, on the device, as a function of (seed, step).

A step's shape, schedule and chunk count are drawn on the host from a few fixed choices, so that
compiled code sees few shapes; everything per scene is drawn and gathered on the device.

The step's batch is the same for any number of ranks: chance is drawn for all of it and cut to the
rank's share, whose views alone are gathered.

Shapes: B scenes, V views, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.episode import Episode
from everview.models.gauge import Gauge, fit_gauge
from everview.models.schedule import SCHEDULES, Schedule
from everview.models.views import Views
from everview.pipeline.training.augmentation import (
    Chance,
    jitter_exposure,
    jitter_poses,
    mirror,
    shake_gauge,
)
from everview.pipeline.training.config import Augmentation, DataConfig, EpisodeShape
from everview.pipeline.training.reduction import reduced
from everview.pipeline.training.scene_pool import ScenePool

DEPTH_STRIDE = 4
"""Every n-th pixel of a depth map counts for the gauge's median."""
SCALE_LIMIT = 3.0
"""The two rules for a gauge's scale may differ by this factor before the depth's is taken."""


@dataclass(frozen=True)
class Draw:
    """What the host decides about a step."""

    shape: EpisodeShape
    chunks: int
    schedule: Schedule
    stored_share: float
    memory_share: float

    @property
    def chunk_views(self) -> tuple[int, ...]:
        """Views in each chunk."""
        return (self.shape.inputs // self.chunks,) * self.chunks


class Feeder:
    """Episodes from a pool, of the pool's share of every batch; `step` and `progress` decide
    everything, nothing is remembered."""

    def __init__(self, pool: ScenePool, seed: int) -> None:
        self.pool = pool
        self.config: DataConfig = pool.config
        self._seed = seed
        self._generator = torch.Generator(pool.device)

    def episode(self, step: int, progress: float) -> tuple[Episode, Schedule]:
        """The episode of step `step`, on the pool's device, and the schedule to run it under."""
        self.pool.advance(step)
        random = np.random.default_rng([self._seed, step])
        draw = draw_step(random, self.config, progress)
        return self.sample(draw, int(random.integers(2**62))), draw.schedule

    def sample(self, draw: Draw, seed: int) -> Episode:
        """An episode of the scenes that are in the pool now."""
        self._generator.manual_seed(seed)
        return self._sample(draw, Chance(self._generator, self.pool.share, draw.shape.scenes))

    @torch.no_grad()
    def _sample(self, draw: Draw, chance: Chance) -> Episode:
        shape, storage = draw.shape, self.pool.storage
        shape = replace(shape, scenes=self.pool.share.size(shape.scenes))
        augmentation = self.config.augmentation
        slots = self._slots(draw, chance, shape.scenes)[:, None]
        views = choose_views(chance, shape, storage.views, augmentation.sparse_share)
        held, side = self.config.size, self.config.side(shape)
        lens, poses = storage.intrinsics[slots, views], storage.c2w_cv[slots, views]
        images, depth, cameras = reduced(
            storage.images[slots, views],
            storage.depth[slots, views],
            Cameras(held, held, lens, poses),
            side,
        )
        images, depth, cameras = mirror(
            chance.event(augmentation.flip_share, shape.scenes), images, depth, cameras
        )
        images, depth = images.float() / 255, depth.float()
        time_s = draw_times(
            chance, augmentation, storage.time_s[slots, views], storage.moving[slots[:, 0]]
        )
        count = shape.inputs
        seen = jitter_poses(chance, augmentation, cameras[:, :count], depth[:, :count])
        gauge = first_chunk_gauge(
            chance, augmentation, seen[:, : draw.chunk_views[0]], depth[:, : draw.chunk_views[0]]
        )
        exposed = jitter_exposure(chance, augmentation, images[:, :count])
        return Episode(
            inputs=Views(exposed, seen, time_s[:, :count], depth[:, :count]),
            targets=Views(
                images[:, count:], cameras[:, count:], time_s[:, count:], depth[:, count:]
            ),
            chunk_views=draw.chunk_views,
            gauge=shake_gauge(chance, augmentation, gauge),
            bank_mask=~chance.event(draw.memory_share, shape.scenes, shape.targets),
        )

    def _slots(self, draw: Draw, chance: Chance, count: int) -> Tensor:
        """Scenes of the pool [B]: procedural ones, and a share of stored ones."""
        place = chance.uniform(count)
        slots = self.pool.slots(place)
        if not self.pool.stored:
            return slots
        stored = self.pool.stored_slots(place)
        return torch.where(chance.event(draw.stored_share, count), stored, slots)


def possible_draws(config: DataConfig) -> list[Draw]:
    """Every combination of shape, chunk count and schedule that a run may meet."""
    return [
        Draw(shape, chunks, SCHEDULES[name], 0.0, config.memory_share.value(0.0))
        for shape in config.shapes
        for chunks in shape.chunks
        for name, _ in config.schedules
    ]


def draw_step(random: np.random.Generator, config: DataConfig, progress: float) -> Draw:
    """Shape, chunk count and schedule of a step."""
    shapes = config.shapes_at(progress)
    shape = shapes[_choose(random, [shape.share for shape in shapes])]
    chunks = shape.chunks[int(random.integers(len(shape.chunks)))]
    name = config.schedules[_choose(random, [share for _, share in config.schedules])][0]
    stored, memory = config.stored_share.value(progress), config.memory_share.value(progress)
    return Draw(shape, chunks, SCHEDULES[name], stored, memory)


def _choose(random: np.random.Generator, shares: list[float]) -> int:
    return int(random.choice(len(shares), p=np.array(shares) / sum(shares)))


def choose_views(
    chance: Chance, shape: EpisodeShape, available: int, sparse_share: float
) -> Tensor:
    """Indices [B, inputs + targets] of distinct views, the inputs first and in order.

    Some scenes take views from anywhere on their path, as a photographer's set; the others take a
    stretch of it just long enough to a few times longer, as a video's frames.
    """
    needed = shape.inputs + shape.targets
    order = chance.uniform(shape.scenes, available)
    length = needed + chance.uniform(shape.scenes, 1).square() * (available - needed)
    start = chance.uniform(shape.scenes, 1) * (available - length)
    place = torch.arange(available, device=order.device) + 0.5
    # rounding may cost a stretch one of its views; whatever lies nearest to it then fills up
    distance = (place - (start + length / 2)).abs() - length / 2
    outside = distance.clamp(min=0) * ~chance.event(sparse_share, shape.scenes, 1)
    order = order + torch.where(outside > 0, 1 + outside, 0.0)
    chosen = order.argsort(1)[:, :needed]
    # among the chosen ones, who is an input must not depend on the distance to the stretch
    shuffle = chance.uniform(shape.scenes, needed).argsort(1)
    chosen = chosen.gather(1, shuffle)
    inputs = chosen[:, : shape.inputs].sort(1).values
    return torch.cat([inputs, chosen[:, shape.inputs :]], 1)


def draw_times(chance: Chance, config: Augmentation, time_s: Tensor, moving: Tensor) -> Tensor:
    """Times [B, V] from a random origin; for static scenes [B] any times at all, or none (NaN)."""
    scenes, views = time_s.shape
    stretch = chance.uniform(scenes, 1, low=-1.5, high=4.0)  # 30 ms to three hours
    invented = chance.uniform(scenes, views) * 10**stretch
    static = torch.where(chance.event(config.timeless_share, scenes, 1), torch.nan, invented)
    origin = chance.uniform(scenes, 1) * 100
    return torch.where(moving[:, None], time_s, static) + origin


def first_chunk_gauge(
    chance: Chance, config: Augmentation, cameras: Cameras, depth: Tensor
) -> Gauge:
    """The gauge a stream would take from this first chunk, with or without its depth.

    The known depth anchors it: where cameras alone would put the scale far off (a focus behind a
    wall), the scene keeps its depth's scale.
    """
    sparse = depth[..., ::DEPTH_STRIDE, ::DEPTH_STRIDE]
    measured = fit_gauge(cameras, "metric", depth=sparse)
    posed = fit_gauge(cameras, "metric")
    ratio = posed.scale / measured.scale
    usable = (ratio < SCALE_LIMIT) & (ratio > 1 / SCALE_LIMIT)
    chosen = usable & ~chance.event(config.depth_gauge_share, cameras.shape[0])
    return replace(measured, scale=torch.where(chosen, posed.scale, measured.scale))
