"""Reading shard sets: every file is verified before a byte of it is decoded."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.datasets.errors import DataError
from everview.datasets.shards.manifest import Manifest, ShardFile, ShardScene, read_manifest


@dataclass(frozen=True, eq=False)
class ShardViews:
    """Decoded scenes: images uint8 [S, V, H, W, 3]; depth float32 [S, V, H, W], 0 unknown;
    cameras [S, V] and time_s [S, V] (NaN: no clock) in float64."""

    scenes: tuple[ShardScene, ...]
    images: Tensor
    depth: Tensor
    cameras: Cameras
    time_s: Tensor

    def to(self, device: torch.device | str) -> ShardViews:
        """The same views on a device."""
        return ShardViews(
            self.scenes,
            self.images.to(device),
            self.depth.to(device),
            self.cameras.to(device),
            self.time_s.to(device),
        )


class ShardSet:
    """A folder of shards. `manifest` says what is inside; nothing is decoded until asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.manifest: Manifest = read_manifest(self.directory)

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.manifest.scenes)

    def read(self) -> Iterator[ShardViews]:
        """One shard after the other, decoded. Raises DataError if one is damaged."""
        for shard in self.manifest.shards:
            yield self._decode(shard)

    def load(self, device: torch.device | str = "cpu") -> ShardViews:
        """Every view of every scene, decoded, on `device`."""
        parts = list(self.read())
        return ShardViews(
            scenes=self.manifest.scenes,
            images=torch.cat([p.images for p in parts]),
            depth=torch.cat([p.depth for p in parts]),
            cameras=Cameras(
                self.manifest.width,
                self.manifest.height,
                torch.cat([p.cameras.intrinsics for p in parts]),
                torch.cat([p.cameras.c2w_cv for p in parts]),
            ),
            time_s=torch.cat([p.time_s for p in parts]),
        ).to(device)

    def _decode(self, shard: ShardFile) -> ShardViews:
        path = self.directory / shard.file
        tensors = _verified(path, shard)
        lead = (len(shard.scenes), self.manifest.views_per_scene)
        size = (self.manifest.height, self.manifest.width)
        try:
            self._check_shapes(tensors, lead)
            pictures = _split(tensors["images"], tensors["image_ends"])
            images = np.stack([_decode_image(picture, size) for picture in pictures])
            streams = _split(tensors["depth"], tensors["depth_ends"])
            steps = np.stack([decode_depth(stream, size) for stream in streams])
        except (KeyError, ValueError, OSError, zlib.error) as error:
            raise DataError(f"{path} is damaged ({error}); write the set again") from None
        units = np.array([scene.depth_unit for scene in shard.scenes], np.float32)
        depth = steps.reshape(*lead, *size).astype(np.float32) * units[:, None, None, None]
        cameras = Cameras(
            size[1],
            size[0],
            torch.from_numpy(tensors["intrinsics"].copy()),
            torch.from_numpy(tensors["c2w_cv"].copy()),
        )
        return ShardViews(
            scenes=shard.scenes,
            images=torch.from_numpy(images.reshape(*lead, *size, 3)),
            depth=torch.from_numpy(depth),
            cameras=cameras,
            time_s=torch.from_numpy(tensors["time_s"].copy()),
        )

    @staticmethod
    def _check_shapes(tensors: dict[str, np.ndarray], lead: tuple[int, int]) -> None:
        wanted = {
            "image_ends": lead,
            "depth_ends": lead,
            "intrinsics": (*lead, 4),
            "c2w_cv": (*lead, 4, 4),
            "time_s": lead,
        }
        for name, shape in wanted.items():
            if tensors[name].shape != shape:
                raise ValueError(f"{name} has the shape {tensors[name].shape}, not {shape}")
        for name in ("intrinsics", "c2w_cv"):
            if not np.isfinite(tensors[name]).all():
                raise ValueError(f"{name} holds numbers that are not finite")


def _verified(path: Path, shard: ShardFile) -> dict[str, np.ndarray]:
    try:
        if path.stat().st_size != shard.size_bytes:
            raise DataError(f"{path} has another size than its manifest says; copy the set again")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}; copy the set again") from None
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise DataError(f"{path} differs from its manifest's hash; copy the set again")
    try:
        return load(content)
    except SafetensorError as error:
        raise DataError(f"{path} is not a safetensors file ({error})") from None


def _split(blob: np.ndarray, ends: np.ndarray) -> Sequence[bytes]:
    ends = ends.reshape(-1)
    starts = np.concatenate([[0], ends[:-1]])
    if (starts > ends).any() or ends[-1] != len(blob):
        raise ValueError("its offsets don't fit its pictures")
    content = blob.tobytes()
    return [content[a:b] for a, b in zip(starts, ends, strict=True)]


def _decode_image(content: bytes, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=("WEBP", "PNG")) as image:
        if image.size != (size[1], size[0]):
            raise ValueError(f"a picture of {image.size[0]}x{image.size[1]} pixels")
        return np.asarray(image.convert("RGB"))


def decode_depth(stream: bytes, size: tuple[int, int]) -> np.ndarray:
    """Inverse of `writing.encode_depth`: uint16 [H, W]."""
    count = 2 * size[0] * size[1]
    planes = zlib.decompressobj().decompress(stream, count + 1)
    if len(planes) != count:
        raise ValueError("a depth map of another size")
    change = np.frombuffer(planes, np.uint8).reshape(2, -1).T.copy().view("<u2").reshape(size)
    steps = np.cumsum(change, axis=0, dtype=np.uint16)
    return np.cumsum(steps, axis=1, dtype=np.uint16)


def open_shards(directory: Path | str) -> ShardSet:
    """The shard set in `directory`. Raises DataError if there is none."""
    return ShardSet(Path(directory))
