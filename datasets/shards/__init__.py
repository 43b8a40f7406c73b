"""Shards: posed multi-view data as uint8 views with depth, in verified files of at most 16 MiB."""

from everview.datasets.shards.capture import SceneCapture, open_scene_capture, scene_titles
from everview.datasets.shards.cursor import SceneCursor, epoch_order
from everview.datasets.shards.manifest import Manifest, ShardFile, ShardScene
from everview.datasets.shards.places import Place, open_place
from everview.datasets.shards.reading import ShardSet, open_shards
from everview.datasets.shards.scene import CameraSummary, Origin, PosedScene
from everview.datasets.shards.splitting import HELD_OUT_EVERY, split_by_name
from everview.datasets.shards.writing import ShardWriter, pack_scene, write_manifest, write_shards

__all__ = [
    "HELD_OUT_EVERY",
    "CameraSummary",
    "Manifest",
    "Origin",
    "Place",
    "PosedScene",
    "SceneCapture",
    "SceneCursor",
    "ShardFile",
    "ShardScene",
    "ShardSet",
    "ShardWriter",
    "epoch_order",
    "open_place",
    "open_scene_capture",
    "open_shards",
    "pack_scene",
    "scene_titles",
    "split_by_name",
    "write_manifest",
    "write_shards",
]
