"""Writing shard sets: pictures compressed one by one, scenes packed into files of bounded size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from everview.datasets.errors import DataError
from everview.datasets.shards.coding import (
    ImageFormat,
    depth_steps,
    depth_unit,
    encode_depth,
    encode_image,
)
from everview.datasets.shards.manifest import (
    MANIFEST_NAME,
    MAX_SHARD_BYTES,
    Manifest,
    ShardFile,
    ShardScene,
    check_names,
)
from everview.datasets.shards.places import Place, open_place
from everview.datasets.shards.scene import PosedScene

# The header of a shard and its few tensors of numbers stay far below this.
_RESERVE = 2**16


@dataclass(frozen=True, eq=False)
class PackedScene:
    """A scene whose pictures and depth maps are compressed, waiting for its shard."""

    entry: ShardScene
    images: tuple[bytes, ...]
    depth: tuple[bytes, ...]
    intrinsics: np.ndarray
    c2w_cv: np.ndarray
    time_s: np.ndarray
    view_names: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes that it takes in a shard."""
        pictures = sum(map(len, self.images)) + sum(map(len, self.depth))
        numbers = self.intrinsics.nbytes + self.c2w_cv.nbytes + 3 * self.time_s.nbytes + 8
        return pictures + numbers + sum(len(name.encode()) + 1 for name in self.view_names)


def pack_scene(
    scene: PosedScene, image_format: ImageFormat = "webp", quality: int = 92
) -> PackedScene:
    """Compress a scene. Depth keeps 1 part in 65,535 of the scene's largest.

    Raises DataError when the scene alone is larger than a shard may be.
    """
    unit = depth_unit(scene.depth)
    depth = [b""] * scene.views
    if scene.depth is not None:
        depth = [encode_depth(steps) for steps in depth_steps(scene.depth, unit)]
    time_s = np.full(scene.views, np.nan) if scene.time_s is None else scene.time_s
    names = scene.view_names or ("",) * scene.views
    packed = PackedScene(
        entry=ShardScene.of(scene, unit),
        images=tuple(encode_image(image, image_format, quality) for image in scene.images),
        depth=tuple(depth),
        intrinsics=scene.cameras.intrinsics.double().cpu().numpy(),
        c2w_cv=scene.cameras.c2w_cv.double().cpu().numpy(),
        time_s=np.asarray(time_s, np.float64),
        view_names=tuple(" ".join(name.splitlines()) for name in names),
    )
    if packed.size > MAX_SHARD_BYTES - _RESERVE:
        raise DataError(
            f"scene {scene.title!r} takes {packed.size / 2**20:.0f} MiB with its {scene.views} "
            f"views, and a shard at most {MAX_SHARD_BYTES // 2**20}; prepare it with fewer views a "
            "scene or smaller pictures"
        )
    return packed


class ShardWriter:
    """Scenes into shards PREFIX-00000.safetensors, PREFIX-00001, ...; a file is whole or absent."""

    def __init__(self, place: Place, prefix: str = "shard") -> None:
        self.place, self.prefix = place, prefix
        self.files: list[ShardFile] = []
        self._waiting: list[PackedScene] = []

    def add(self, scene: PackedScene) -> None:
        """Keep a scene; a shard that is full is written."""
        filled = sum(waiting.size for waiting in self._waiting)
        if self._waiting and filled + scene.size > MAX_SHARD_BYTES - _RESERVE:
            self._flush()
        self._waiting.append(scene)

    def finish(self) -> tuple[ShardFile, ...]:
        """Write what waits; what the manifest will say of all files."""
        if self._waiting:
            self._flush()
        return tuple(self.files)

    def discard(self) -> None:
        """Take back everything that was added."""
        for file in self.files:
            self.place.remove(file.file)
        self.files, self._waiting = [], []

    def _flush(self) -> None:
        content = _shard_bytes(self._waiting)
        name = f"{self.prefix}-{len(self.files):05d}.safetensors"
        self.place.write(name, content)
        entries = tuple(scene.entry for scene in self._waiting)
        digest = hashlib.sha256(content).hexdigest()
        self.files.append(ShardFile(name, len(content), digest, entries))
        self._waiting = []


def write_shards(
    where: str | Path,
    scenes: Iterable[PosedScene],
    *,
    split: str = "",
    image_format: ImageFormat = "webp",
    quality: int = 92,
) -> Manifest:
    """Write `scenes`, lazily read, to `where` (new or empty); the manifest comes last.

    Raises DataError when the scenes differ in picture size or share a name.
    """
    place = open_place(where)
    if place.names():
        raise DataError(f"{place.url} is not empty; give a new folder for the shards")
    writer = ShardWriter(place)
    size: tuple[int, int] | None = None
    for scene in scenes:
        size = size or (scene.cameras.width, scene.cameras.height)
        if size != (scene.cameras.width, scene.cameras.height):
            raise DataError(f"scene {scene.title!r} differs in size from the ones before it")
        writer.add(pack_scene(scene, image_format, quality))
    if size is None:
        raise DataError(f"no scene to write to {place.url}")
    return write_manifest(place, size, split, writer.finish())


def write_manifest(
    place: Place, size: tuple[int, int], split: str, shards: Sequence[ShardFile]
) -> Manifest:
    """Make a set of shards that lie at `place`: of pictures of `size` (W, H), in this order.

    Raises DataError when two scenes share name and variant.
    """
    try:
        check_names(tuple(shards))
    except ValueError as error:
        raise DataError(f"the shards at {place.url} can't be one set: {error}") from None
    manifest = Manifest(size[0], size[1], split, tuple(shards))
    place.write(MANIFEST_NAME, manifest.to_json().encode())
    return manifest


def _shard_bytes(scenes: Sequence[PackedScene]) -> bytes:
    images = [picture for scene in scenes for picture in scene.images]
    depth = [stream for scene in scenes for stream in scene.depth]
    names = "\n".join(name for scene in scenes for name in scene.view_names).encode()
    content: bytes = save(
        {
            "images": np.frombuffer(b"".join(images), np.uint8),
            "image_ends": np.cumsum([len(x) for x in images], dtype=np.int64),
            "depth": np.frombuffer(b"".join(depth), np.uint8),
            "depth_ends": np.cumsum([len(x) for x in depth], dtype=np.int64),
            "intrinsics": np.concatenate([scene.intrinsics for scene in scenes]),
            "c2w_cv": np.concatenate([scene.c2w_cv for scene in scenes]),
            "time_s": np.concatenate([scene.time_s for scene in scenes]),
            "scene_ends": np.cumsum([len(scene.images) for scene in scenes], dtype=np.int64),
            "view_names": np.frombuffer(names, np.uint8),
        }
    )
    return content
