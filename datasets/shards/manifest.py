"""The form of a shard set on disk.

    DIR/manifest.json           what is inside, with a SHA-256 of every file
    DIR/shard-00000.safetensors at most 16 MiB each

A shard holds S scenes of V views, all of one size, as tensors:

    images         uint8   [bytes]        the pictures, each a WebP or PNG file, end to end
    image_ends     int64   [S, V]         where each picture ends in `images`
    depth          uint8   [bytes]        the depth maps, each a zlib stream of uint16 [H, W] whose
                                          rows and columns were differenced (wrapping)
    depth_ends     int64   [S, V]
    intrinsics     float64 [S, V, 4]      fx, fy, cx, cy in pixels
    c2w_cv         float64 [S, V, 4, 4]   OpenCV axes
    time_s         float64 [S, V]         NaN where a scene has no clock

Depth in world units is the stored number times the scene's `depth_unit`; 0 is unknown.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from everview.datasets.captures import Scale
from everview.datasets.errors import DataError
from everview.datasets.guards import read_json

FORMAT = "everview-shards"
VERSION = 1
MAX_SHARD_BYTES = 16 * 2**20
MANIFEST_NAME = "manifest.json"
# A set that claims more pixels than this is refused before any is decoded.
MAX_VIEWS = 1_000_000
MAX_SIDE = 4096


@dataclass(frozen=True)
class ShardScene:
    """One scene: its name (unique with its variant), its set-up, its depth unit."""

    name: str
    variant: str
    depth_unit: float


@dataclass(frozen=True)
class ShardFile:
    """One file: name, size, SHA-256 (hex) and the scenes inside, in order."""

    file: str
    size_bytes: int
    sha256: str
    scenes: tuple[ShardScene, ...]


@dataclass(frozen=True)
class Manifest:
    """A shard set: views per scene, picture size, unit of the world, where it came from."""

    width: int
    height: int
    views_per_scene: int
    scale: Scale
    licence: str
    source: str
    shards: tuple[ShardFile, ...]

    @property
    def scenes(self) -> tuple[ShardScene, ...]:
        """All scenes, in order."""
        return tuple(scene for shard in self.shards for scene in shard.scenes)

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(content, indent=1) + "\n"


def read_manifest(directory: Path) -> Manifest:
    """Parse and check `manifest.json`. Raises DataError, one sentence, for anything amiss."""
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise DataError(f"{directory} holds no {MANIFEST_NAME}; it is not a shard set")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a shard set")
    if content.get("version") != VERSION:
        raise DataError(
            f"{path} has version {content.get('version')}; this program reads {VERSION}, write the "
            "set again"
        )
    try:
        manifest = _manifest(content)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is incomplete or damaged ({error}); write the set again") from None
    _check(manifest, path)
    return manifest


def _manifest(content: dict[str, Any]) -> Manifest:
    shards = tuple(
        ShardFile(
            file=str(shard["file"]),
            size_bytes=int(shard["size_bytes"]),
            sha256=str(shard["sha256"]),
            scenes=tuple(
                ShardScene(str(s["name"]), str(s["variant"]), float(s["depth_unit"]))
                for s in shard["scenes"]
            ),
        )
        for shard in content["shards"]
    )
    return Manifest(
        width=int(content["width"]),
        height=int(content["height"]),
        views_per_scene=int(content["views_per_scene"]),
        scale=content["scale"],
        licence=str(content["licence"]),
        source=str(content["source"]),
        shards=shards,
    )


def _check(manifest: Manifest, path: Path) -> None:
    views = manifest.views_per_scene * len(manifest.scenes)
    if not (0 < manifest.width <= MAX_SIDE and 0 < manifest.height <= MAX_SIDE):
        raise DataError(f"{path} states pictures of {manifest.width}x{manifest.height} pixels")
    if not 0 < views <= MAX_VIEWS:
        raise DataError(f"{path} states {views} views; between 1 and {MAX_VIEWS} can be read")
    if manifest.scale not in ("metric", "up_to_scale", "normalised"):
        raise DataError(f"{path} states the scale '{manifest.scale}', which is none")
    for shard in manifest.shards:
        if PurePosixPath(shard.file).name != shard.file or shard.file in (".", ".."):
            raise DataError(f"{path} names {shard.file!r}, which is not a file beside it")
        if not 0 < shard.size_bytes <= MAX_SHARD_BYTES:
            raise DataError(f"{path} states {shard.size_bytes} bytes for {shard.file}")
