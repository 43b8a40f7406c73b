"""The form of a shard set.

    PLACE/manifest.json           what is inside, with a SHA-256 of every file; written last
    PLACE/shard-*.safetensors     at most 16 MiB each

All pictures of a set have one size, W x H. A shard holds S scenes with T views in all, the views
of a scene side by side, as tensors:

    images         uint8   [bytes]      the pictures, each a WebP or PNG file, end to end
    image_ends     int64   [T]          where each picture ends in `images`
    depth          uint8   [bytes]      the depth maps, each a zlib stream of uint16 [H, W] whose
                                        rows and columns were differenced (wrapping); none: 0 bytes
    depth_ends     int64   [T]
    intrinsics     float64 [T, 4]       fx, fy, cx, cy in pixels
    c2w_cv         float64 [T, 4, 4]    OpenCV axes, in the world of the scene's origin
    time_s         float64 [T]          NaN where a scene has no clock
    scene_ends     int64   [S]          where each scene ends among the views
    view_names     uint8   [bytes]      what the source calls the views, UTF-8, one a line

Depth in world units is the stored number times the scene's `depth_unit`; 0 is unknown.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from everview.datasets.errors import DataError
from everview.datasets.guards import MAX_JSON_BYTES, parse_json
from everview.datasets.shards.places import Place, checked
from everview.datasets.shards.scene import SCALES, CameraSummary, Origin, PosedScene

FORMAT = "everview-shards"
VERSION = 2
MAX_SHARD_BYTES = 16 * 2**20
MANIFEST_NAME = "manifest.json"
# A set that claims more than this is refused before any of it is decoded.
MAX_VIEWS = 10_000_000
MAX_SIDE = 4096
MAX_SCENE_BYTES = 4 * 2**30


@dataclass(frozen=True)
class ShardScene:
    """What the manifest says of one scene, see PosedScene; `name` with `variant` is unique in a
    set."""

    name: str
    variant: str
    views: int
    depth_unit: float
    has_time: bool
    origin: Origin
    cameras: CameraSummary
    distance: float = 0.0

    @staticmethod
    def of(scene: PosedScene, unit: float) -> ShardScene:
        """The entry of `scene`, whose depth is stored in steps of `unit` (0: no depth)."""
        return ShardScene(
            name=scene.name,
            variant=scene.variant,
            views=scene.views,
            depth_unit=unit,
            has_time=scene.time_s is not None,
            origin=scene.origin,
            cameras=CameraSummary.of(scene.cameras),
            distance=scene.distance,
        )

    @property
    def title(self) -> str:
        """Name and variant in one word, as `PosedScene.title`."""
        return f"{self.name}/{self.variant}" if self.variant else self.name

    @property
    def has_depth(self) -> bool:
        """Whether any view may have depth."""
        return self.depth_unit > 0


@dataclass(frozen=True)
class ShardFile:
    """One file: name, size, SHA-256 (hex) and the scenes inside, in order."""

    file: str
    size_bytes: int
    sha256: str
    scenes: tuple[ShardScene, ...]

    @property
    def views(self) -> int:
        """Views of all its scenes."""
        return sum(scene.views for scene in self.scenes)

    @staticmethod
    def from_plain(content: dict[str, Any]) -> ShardFile:
        """From JSON. Raises KeyError, TypeError, ValueError or DataError on anything amiss."""
        shard = ShardFile(
            file=checked(str(content["file"])),
            size_bytes=int(content["size_bytes"]),
            sha256=str(content["sha256"]),
            scenes=tuple(_scene(entry) for entry in content["scenes"]),
        )
        if not 0 < shard.size_bytes <= MAX_SHARD_BYTES:
            raise ValueError(f"{shard.size_bytes} bytes for {shard.file}")
        if not shard.scenes:
            raise ValueError(f"no scenes in {shard.file}")
        return shard


@dataclass(frozen=True)
class Manifest:
    """A shard set. width, height: of every picture. split: "training", "held_out" or "" for sets
    that are not divided by name (`splitting`)."""

    width: int
    height: int
    split: str
    shards: tuple[ShardFile, ...]

    @property
    def scenes(self) -> tuple[ShardScene, ...]:
        """All scenes, in order."""
        return tuple(scene for shard in self.shards for scene in shard.scenes)

    @property
    def views(self) -> int:
        """Views of all scenes."""
        return sum(shard.views for shard in self.shards)

    @property
    def licences(self) -> tuple[str, ...]:
        """Every licence that is in the set."""
        return tuple(sorted({scene.origin.licence for scene in self.scenes}))

    def to_json(self) -> str:
        """The text of `manifest.json`: the shards, and what can be said of all of them."""
        scenes = self.scenes
        content = {
            "format": FORMAT,
            "version": VERSION,
            "width": self.width,
            "height": self.height,
            "split": self.split,
            "num_scenes": len(scenes),
            "num_views": self.views,
            "size_bytes": sum(shard.size_bytes for shard in self.shards),
            "scales": sorted({scene.origin.scale for scene in scenes}),
            "licences": self.licences,
            "views_per_scene": _span(scene.views for scene in scenes),
            "cameras": {
                key: _span(getattr(scene.cameras, key) for scene in scenes)
                for key in ("fov_deg", "extent", "turn_deg")
            },
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_manifest(place: Place) -> Manifest:
    """Parse and check the manifest there. Raises DataError, one sentence, for anything amiss."""
    where = place.describe(MANIFEST_NAME)
    raw = place.read(MANIFEST_NAME, MAX_JSON_BYTES)
    if raw is None:
        raise DataError(
            f"{place.url} holds no {MANIFEST_NAME}; it is not a shard set, or not finished"
        )
    try:
        content = parse_json(raw.decode("utf-8"), where)
    except UnicodeDecodeError:
        raise DataError(f"{where} is not text; copy the set again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{where} is not the manifest of a shard set")
    if content.get("version") != VERSION:
        raise DataError(
            f"{where} has version {content.get('version')}; this program reads {VERSION}, prepare "
            "the set again"
        )
    try:
        manifest = Manifest(
            width=int(content["width"]),
            height=int(content["height"]),
            split=str(content["split"]),
            shards=tuple(ShardFile.from_plain(shard) for shard in content["shards"]),
        )
        _check(manifest, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} is damaged ({error}); prepare the set again") from None
    return manifest


def _scene(content: dict[str, Any]) -> ShardScene:
    origin = Origin(**{key: str(value) for key, value in content["origin"].items()})  # type: ignore[arg-type]
    cameras = CameraSummary(**{key: float(value) for key, value in content["cameras"].items()})
    scene = ShardScene(
        name=str(content["name"]),
        variant=str(content["variant"]),
        views=int(content["views"]),
        depth_unit=float(content["depth_unit"]),
        has_time=bool(content["has_time"]),
        origin=origin,
        cameras=cameras,
        distance=float(content.get("distance", 0.0)),  # sets made before it was written down
    )
    if not 0 <= scene.distance < float("inf"):
        raise ValueError(f"the distance {scene.distance} of {scene.name!r}")
    if scene.views < 1 or not 0 <= scene.depth_unit < float("inf"):
        raise ValueError(f"{scene.views} views, depth unit {scene.depth_unit}, of {scene.name!r}")
    if origin.scale not in SCALES:
        raise ValueError(f"the scale {origin.scale!r} of {scene.name!r}")
    return scene


def _check(manifest: Manifest, content: dict[str, Any]) -> None:
    if not (0 < manifest.width <= MAX_SIDE and 0 < manifest.height <= MAX_SIDE):
        raise ValueError(f"pictures of {manifest.width}x{manifest.height} pixels")
    if not 0 < manifest.views <= MAX_VIEWS:
        raise ValueError(f"{manifest.views} views; between 1 and {MAX_VIEWS} can be read")
    largest = max(scene.views for scene in manifest.scenes)
    if 3 * largest * manifest.width * manifest.height > MAX_SCENE_BYTES:
        raise ValueError(f"a scene of {largest} views of {manifest.width}x{manifest.height} pixels")
    stated = (int(content["num_scenes"]), int(content["num_views"]))
    if stated != (len(manifest.scenes), manifest.views):
        raise ValueError("its counts are not those of its shards")
    check_names(manifest.shards)


def check_names(shards: tuple[ShardFile, ...]) -> None:
    """Raise ValueError when a file or a scene is listed twice."""
    files = [shard.file for shard in shards]
    titles = [(scene.name, scene.variant) for shard in shards for scene in shard.scenes]
    for listed in (files, titles):
        seen = set()
        for entry in listed:
            if entry in seen:
                raise ValueError(f"{entry!r} is listed twice")
            seen.add(entry)


def _span(values: Any) -> list[float]:
    known = list(values)
    return [min(known), max(known)]
