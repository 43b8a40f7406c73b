"""Reading shard sets: every file is verified before a byte of it is decoded."""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load

from everview.datasets.cameras import Cameras
from everview.datasets.errors import DataError
from everview.datasets.shards.coding import decode_depth, decode_image
from everview.datasets.shards.manifest import (
    MAX_SHARD_BYTES,
    Manifest,
    ShardFile,
    ShardScene,
    read_manifest,
)
from everview.datasets.shards.places import Place, open_place
from everview.datasets.shards.scene import PosedScene


class ShardSet:
    """A set of shards. `manifest` says what is inside; nothing is decoded until asked for.

    A shard is read whole, held against size, hash and contents of the manifest, and kept open:
    `open_shards` at a time, the least recently used goes first. A damaged one raises DataError
    that names it, whenever a scene in it is asked for.
    """

    def __init__(self, place: Place, open_shards: int = 4) -> None:
        self.place = place
        self.manifest: Manifest = read_manifest(place)
        self._limit = max(1, open_shards)
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self._places)

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """Of every scene, its shard and its position there."""
        return [
            (number, position)
            for number, shard in enumerate(self.manifest.shards)
            for position in range(len(shard.scenes))
        ]

    @cached_property
    def identity(self) -> str:
        """A hash that is equal for equal content, in hex."""
        lines = "\n".join(shard.sha256 for shard in self.manifest.shards)
        return hashlib.sha256(lines.encode()).hexdigest()

    def scene(self, index: int) -> PosedScene:
        """Scene `index`, decoded. Raises DataError if its shard is damaged."""
        number, position = self._places[index]
        return self._shard(number).scene(position)

    def read(self) -> Iterator[PosedScene]:
        """Every scene in order, one shard after the other."""
        for index in range(len(self)):
            yield self.scene(index)

    def _shard(self, number: int) -> _OpenShard:
        if number not in self._open:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)
            self._open[number] = read_shard(
                self.place, self.manifest.shards[number], (self.manifest.height,
                                                           self.manifest.width)
            )  # fmt: skip
        self._open.move_to_end(number)
        return self._open[number]


@dataclass(frozen=True, eq=False)
class _OpenShard:
    """A verified shard, its pictures still compressed. size: (H, W)."""

    name: str
    entries: tuple[ShardScene, ...]
    size: tuple[int, int]
    tensors: dict[str, np.ndarray]
    view_names: tuple[str, ...]

    def scene(self, position: int) -> PosedScene:
        """One scene, decoded."""
        entry = self.entries[position]
        ends = self.tensors["scene_ends"]
        views = range(int(ends[position - 1]) if position else 0, int(ends[position]))
        part = slice(views.start, views.stop)
        try:
            images = np.stack([decode_image(self._piece("image", v), self.size) for v in views])
            depth = None
            if entry.has_depth:
                steps = np.stack([decode_depth(self._piece("depth", v), self.size) for v in views])
                depth = steps.astype(np.float32) * np.float32(entry.depth_unit)
            return PosedScene(
                name=entry.name,
                images=images,
                cameras=Cameras(
                    self.size[1],
                    self.size[0],
                    torch.from_numpy(self.tensors["intrinsics"][part].copy()),
                    torch.from_numpy(self.tensors["c2w_cv"][part].copy()),
                ),
                origin=entry.origin,
                depth=depth,
                time_s=self.tensors["time_s"][part].copy() if entry.has_time else None,
                view_names=self.view_names[part],
                variant=entry.variant,
                distance=entry.distance,
            )
        except (ValueError, OSError, SyntaxError, zlib.error, DataError) as error:
            raise DataError(f"{self.name} is damaged ({error}); prepare the set again") from None

    def _piece(self, kind: str, view: int) -> bytes:
        ends = self.tensors[f"{kind}_ends"]
        begin = int(ends[view - 1]) if view else 0
        whole = self.tensors["images" if kind == "image" else kind]
        return whole[begin : int(ends[view])].tobytes()


def read_shard(place: Place, shard: ShardFile, size: tuple[int, int]) -> _OpenShard:
    """Read and verify one file of pictures of `size` (H, W); decodes none of them.

    Raises DataError, which names the file, when it is missing, changed or not what the manifest
    says.
    """
    name = place.describe(shard.file)
    content = place.read(shard.file, MAX_SHARD_BYTES)
    if content is None:
        raise DataError(f"{name} is missing; copy the set again")
    if len(content) != shard.size_bytes:
        raise DataError(
            f"{name} has {len(content)} bytes, its manifest says {shard.size_bytes}; copy the set "
            "again"
        )
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise DataError(f"{name} differs from its manifest's hash; copy the set again")
    try:
        tensors = load(content)
        names = _check_contents(tensors, shard)
    except (KeyError, ValueError, SafetensorError) as error:
        raise DataError(f"{name} is damaged ({error}); prepare the set again") from None
    return _OpenShard(name, shard.scenes, size, tensors, names)


def _check_contents(tensors: dict[str, np.ndarray], shard: ShardFile) -> tuple[str, ...]:
    """Hold the tensors against the manifest's entries; the names of the views."""
    total = shard.views
    wanted = {
        "image_ends": (total,),
        "depth_ends": (total,),
        "intrinsics": (total, 4),
        "c2w_cv": (total, 4, 4),
        "time_s": (total,),
        "scene_ends": (len(shard.scenes),),
    }
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has the shape {tensors[name].shape}, not {shape}")
    if np.diff(tensors["scene_ends"], prepend=0).tolist() != [s.views for s in shard.scenes]:
        raise ValueError("its scenes have other numbers of views than the manifest says")
    for kind, whole in (("image_ends", "images"), ("depth_ends", "depth")):
        ends = tensors[kind]
        if (np.diff(ends, prepend=0) < 0).any() or ends[-1] != len(tensors[whole]):
            raise ValueError(f"its {kind} don't fit its {whole}")
    names = tuple(tensors["view_names"].tobytes().decode("utf-8").split("\n"))
    if len(names) != total:
        raise ValueError(f"it names {len(names)} of {total} views")
    return names


def open_shards(where: str | Path, open_shards: int = 4) -> ShardSet:
    """The set at `where`, a path or URL, keeping at most so many shards open (16 MiB each).

    Raises DataError if there is none.
    """
    return ShardSet(open_place(where), open_shards)
