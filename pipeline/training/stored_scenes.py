"""Scenes from shards as blocks of the pool: which scenes, which of their views, decoded.

The pool's parts each walk every set in an order of their own (`SceneCursor`), a block at a time.
What block k holds follows from the configuration, the seed and k alone, so a run that is cut, or
goes on with another number of workers, meets the scenes it would have met.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from everview.datasets.cameras import Cameras
from everview.datasets.errors import DataError
from everview.datasets.shards import PosedScene, SceneCursor, ShardSet, open_shards
from everview.datasets.shards.cursor import MIXED_SHARDS
from everview.models.gauge import GaugeError, fit_gauge
from everview.pipeline.errors import UsageError
from everview.pipeline.training.config import DataConfig, ViewChoice
from everview.pipeline.training.mixing import golden_choice
from everview.pipeline.training.scene_pool import SceneViews, joined

_METRES = 2.0
"""A scene of unknown unit and depth is scaled so that its gauge's unit is this many metres, what a
metric one without depth has."""


@dataclass(frozen=True)
class StoredBlock:
    """Scenes of one set, to be decoded: the set's number, and the scenes' indices in it."""

    number: int
    source: int
    scenes: tuple[int, ...]


class StoredScenes:
    """The sets of a configuration; plain data, so it can be sent to a worker.

    Raises UsageError when a set is held out, has another size, or no scene with enough views.
    """

    def __init__(self, data: DataConfig, seed: int) -> None:
        self.data, self._seed = data, seed
        self._usable = [_usable(data, place, self._set(place)) for place in data.shards]
        # each set's walk by every part
        self._walks = {
            (source, part): self._walk(source, part)
            for source in range(len(data.shards))
            for part in range(data.parts)
        }

    def block(self, number: int) -> StoredBlock:
        """What block `number` holds: part number % parts, its (number // parts)-th."""
        parts, size = self.data.parts, self.data.refresh_scenes
        part, source = number % parts, self._source(number)
        earlier = sum(self._source(n) == source for n in range(part, number, parts))
        walk = copy.copy(self._walks[source, part])  # threads ask at once
        walk.go_to(earlier * size)
        return StoredBlock(number, source, tuple(walk.next() for _ in range(size)))

    def make(self, number: int) -> SceneViews:
        """Block `number`, decoded, on the CPU. Raises DataError for a damaged shard."""
        block = self.block(number)
        shards = self._set(self.data.shards[block.source])
        made = []
        for place, index in enumerate(block.scenes):
            random = np.random.default_rng([self._seed, number, place])
            scene = shards.scene(index)
            chosen = choose_views(self.data.shard_views, scene.cameras, self.data.views, random)
            made.append(_as_views(scene, chosen))
        return joined(made)

    def _source(self, number: int) -> int:
        shares = self.data.shard_shares or (1.0,) * len(self.data.shards)
        return golden_choice(number, shares)

    def _walk(self, source: int, part: int) -> SceneCursor:
        shards, usable = self._set(self.data.shards[source]), self._usable[source]
        if len(usable) >= self.data.parts:
            return SceneCursor(shards, self._seed, part, self.data.parts, usable)
        # too few to deal: every part walks them all, in an order of its own
        return SceneCursor(shards, self._seed + 1 + part, among=usable)

    def _set(self, place: str) -> ShardSet:
        return _opened(place)


_open = threading.local()


def _opened(place: str) -> ShardSet:
    """A thread's own: what a set keeps open is not shared."""
    sets: dict[str, ShardSet] = _open.__dict__.setdefault("sets", {})
    if place not in sets:
        sets[place] = open_shards(place, MIXED_SHARDS)
    return sets[place]


def _usable(data: DataConfig, place: str, shards: ShardSet) -> tuple[int, ...]:
    """The scenes of a set that have enough views."""
    manifest = shards.manifest
    if manifest.split == "held_out":
        raise UsageError(f"{place} holds what is never trained on; prepare the training split")
    if (manifest.width, manifest.height) != (data.size, data.size):
        raise UsageError(
            f"{place} holds views of {manifest.width}x{manifest.height} pixels, but the recipe "
            f"trains at {data.size}; prepare it again with --size {data.size}"
        )
    scenes = manifest.scenes
    usable = tuple(index for index, scene in enumerate(scenes) if scene.views >= data.views)
    if not usable:
        most = max(scene.views for scene in scenes)
        raise UsageError(
            f"{place} holds at most {most} views a scene, but the recipe wants {data.views}; "
            "prepare it with more (--views of a mesh, --scene-views and --every of a capture) or "
            "lower --data.views"
        )
    return usable


def choose_views(
    choice: ViewChoice, cameras: Cameras, count: int, random: np.random.Generator
) -> np.ndarray:
    """`count` different indices of cameras [V], in order: anywhere at `random`; one `window` of
    neighbours; or for `coverage` the views nearest to the means of as many clusters (k-means over
    places and viewing directions)."""
    total = cameras.shape[0]
    if choice == "window":
        return int(random.integers(total - count + 1)) + np.arange(count)
    if choice == "coverage":
        return _covering(cameras, count, random)
    return np.sort(random.permutation(total)[:count])


def _covering(cameras: Cameras, count: int, random: np.random.Generator) -> np.ndarray:
    from scipy.cluster.vq import kmeans2

    centres, axes = cameras.centres.double().numpy(), cameras.forwards.double().numpy()
    spread = max(float(np.linalg.norm(centres - centres.mean(0), axis=-1).mean()), 1e-9)
    # half a turn counts as much as twice the cameras' mean distance from their middle
    where = np.concatenate([(centres - centres.mean(0)) / spread, axes], axis=-1)
    means, _ = kmeans2(where, count, minit="++", seed=random)
    distance = np.linalg.norm(where[None] - means[:, None], axis=-1)
    chosen: list[int] = []
    for row in distance:  # a cluster may be empty, and two may share their nearest view
        row[chosen] = np.inf
        chosen.append(int(row.argmin()))
    return np.sort(chosen)


def _as_views(scene: PosedScene, chosen: Sequence[int] | np.ndarray) -> SceneViews:
    """The chosen views as one scene of the pool, on the CPU."""
    index = torch.as_tensor(np.asarray(chosen))
    size = (len(index), *scene.images.shape[1:3])
    depth, unit = torch.zeros(size), 1.0
    if scene.depth is not None:
        depth = torch.from_numpy(scene.depth)[index]
    elif scene.origin.scale != "metric":
        unit = _unit(scene)
    pose = scene.cameras.c2w_cv[index].clone()
    pose[:, :3, 3] *= unit
    clock = scene.time_s is not None and bool(np.isfinite(scene.time_s).all())
    time_s = torch.from_numpy(scene.time_s)[index] if clock else torch.full((len(index),), np.nan)
    return SceneViews(
        images=torch.from_numpy(scene.images).movedim(-1, 1)[index][None],
        depth=depth.half()[None],
        intrinsics=scene.cameras.intrinsics[index].float()[None],
        c2w_cv=pose.float()[None],
        time_s=time_s.float()[None],
        moving=torch.tensor([clock]),
    )


def _unit(scene: PosedScene) -> float:
    """What one unit of the scene's world becomes. Raises DataError where its cameras don't tell."""
    if scene.distance:
        return _METRES / scene.distance
    try:  # of a set that doesn't say
        gauge = fit_gauge(scene.cameras, scene.origin.scale)
    except GaugeError as error:
        raise DataError(f"scene {scene.title!r} can't be trained on: {error}") from None
    return _METRES * float(gauge.scale)
