"""Writing shard sets: pictures compressed one by one, scenes packed into files of bounded size."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from safetensors.numpy import save

from everview.datasets.cameras import Camera
from everview.datasets.captures import Scale
from everview.datasets.errors import DataError
from everview.datasets.shards.manifest import (
    MANIFEST_NAME,
    MAX_SHARD_BYTES,
    Manifest,
    ShardFile,
    ShardScene,
)
from everview.datasets.writers.atomic import write_atomically

_LARGEST = 65535


@dataclass(frozen=True, eq=False)
class SceneViews:
    """One scene to be written.

    images uint8 [V, H, W, 3]; depth float32 [V, H, W] along z in world units, 0 unknown; cameras
    [V] of that size; time_s [V] or None. variant: the set-up, when a scene is seen under several.
    """

    name: str
    images: np.ndarray
    depth: np.ndarray
    cameras: list[Camera]
    time_s: np.ndarray | None = None
    variant: str = ""


@dataclass(frozen=True, eq=False)
class _Packed:
    scene: ShardScene
    images: list[bytes]
    depth: list[bytes]
    intrinsics: np.ndarray
    c2w_cv: np.ndarray
    time_s: np.ndarray

    @property
    def size(self) -> int:
        numbers = self.intrinsics.nbytes + self.c2w_cv.nbytes + 3 * self.time_s.nbytes
        return sum(map(len, self.images)) + sum(map(len, self.depth)) + numbers


def write_shards(
    directory: Path,
    scenes: Iterable[SceneViews],
    *,
    scale: Scale,
    licence: str,
    source: str,
    image_format: Literal["webp", "png"] = "webp",
    quality: int = 92,
) -> Manifest:
    """Write `scenes`, lazily read, to `directory` (new or empty); the manifest comes last.

    image_format: png is lossless, webp lossy at `quality`. Depth keeps 1 part in 65,535 of the
    scene's largest. Raises DataError when scenes disagree in size or number of views.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()):
        raise DataError(f"{directory} is not empty; give a new folder for the shards")
    directory.mkdir(parents=True, exist_ok=True)
    files: list[ShardFile] = []
    waiting: list[_Packed] = []
    form: tuple[int, int, int] | None = None
    names: set[tuple[str, str]] = set()
    for scene in scenes:
        form = _check(scene, form, names)
        packed = _pack(scene, image_format, quality)
        if packed.size > MAX_SHARD_BYTES - 2**16:
            raise DataError(f"scene '{scene.name}' alone is larger than a shard; give fewer views")
        # a safetensors header of a shard is far below 64 KiB
        if sum(p.size for p in waiting) + packed.size > MAX_SHARD_BYTES - 2**16:
            files.append(_write(directory, len(files), waiting))
            waiting = []
        waiting.append(packed)
    if form is None:
        raise DataError(f"no scene to write to {directory}")
    files.append(_write(directory, len(files), waiting))
    manifest = Manifest(
        width=form[2],
        height=form[1],
        views_per_scene=form[0],
        scale=scale,
        licence=licence,
        source=source,
        shards=tuple(files),
    )
    write_atomically(directory / MANIFEST_NAME, manifest.to_json())
    return manifest


def _check(
    scene: SceneViews, form: tuple[int, int, int] | None, names: set[tuple[str, str]]
) -> tuple[int, int, int]:
    views, height, width = scene.depth.shape
    if scene.images.shape != (views, height, width, 3) or scene.images.dtype != np.uint8:
        raise DataError(f"scene '{scene.name}' has images of {scene.images.shape}, depth differs")
    if len(scene.cameras) != views:
        raise DataError(f"scene '{scene.name}' has {views} views but {len(scene.cameras)} cameras")
    if form is not None and form != (views, height, width):
        raise DataError(f"scene '{scene.name}' differs in views or size from the ones before it")
    if (scene.name, scene.variant) in names:
        raise DataError(f"scene '{scene.name}' ('{scene.variant}') is given twice")
    names.add((scene.name, scene.variant))
    return views, height, width


def _pack(scene: SceneViews, image_format: str, quality: int) -> _Packed:
    unit = max(float(scene.depth.max()), 1e-6) / _LARGEST
    steps = np.round(scene.depth / unit).astype(np.uint16)
    # what is known must not round to unknown
    steps = np.where((scene.depth > 0) & (steps == 0), 1, steps).astype(np.uint16)
    time_s = np.full(len(scene.cameras), np.nan) if scene.time_s is None else scene.time_s
    return _Packed(
        scene=ShardScene(scene.name, scene.variant, unit),
        images=[_encode_image(image, image_format, quality) for image in scene.images],
        depth=[encode_depth(depth) for depth in steps],
        intrinsics=np.array([[c.fx, c.fy, c.cx, c.cy] for c in scene.cameras], np.float64),
        c2w_cv=np.stack([c.c2w_cv for c in scene.cameras]),
        time_s=np.asarray(time_s, np.float64),
    )


def _encode_image(image: np.ndarray, image_format: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    if image_format == "png":
        Image.fromarray(image).save(buffer, "PNG", optimize=True)
    else:
        Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def encode_depth(steps: np.ndarray) -> bytes:
    """uint16 [H, W] to a zlib stream; second differences make smooth surfaces nearly constant."""
    change = np.diff(steps, axis=1, prepend=np.uint16(0))
    change = np.diff(change, axis=0, prepend=np.uint16(0))
    # all low bytes, then all high bytes: the high ones are mostly 0 or 255
    planes = change.astype("<u2").view(np.uint8).reshape(-1, 2).T
    return zlib.compress(planes.tobytes(), 9)


def _write(directory: Path, number: int, packed: list[_Packed]) -> ShardFile:
    images = [picture for p in packed for picture in p.images]
    depth = [stream for p in packed for stream in p.depth]
    lead = (len(packed), len(packed[0].images))
    content = save(
        {
            "images": np.frombuffer(b"".join(images), np.uint8),
            "image_ends": np.cumsum([len(x) for x in images], dtype=np.int64).reshape(lead),
            "depth": np.frombuffer(b"".join(depth), np.uint8),
            "depth_ends": np.cumsum([len(x) for x in depth], dtype=np.int64).reshape(lead),
            "intrinsics": np.stack([p.intrinsics for p in packed]),
            "c2w_cv": np.stack([p.c2w_cv for p in packed]),
            "time_s": np.stack([p.time_s for p in packed]),
        }
    )
    name = f"shard-{number:05d}.safetensors"
    (directory / name).write_bytes(content)
    scenes = tuple(p.scene for p in packed)
    return ShardFile(name, len(content), hashlib.sha256(content).hexdigest(), scenes)
