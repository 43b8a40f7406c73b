"""Shards: posed multi-view data as uint8 views with depth, in verified files of at most 16 MiB."""

from everview.datasets.shards.manifest import Manifest, ShardScene
from everview.datasets.shards.reading import ShardSet, ShardViews, open_shards
from everview.datasets.shards.splitting import HELD_OUT_EVERY, split_by_name
from everview.datasets.shards.writing import write_shards

__all__ = [
    "HELD_OUT_EVERY",
    "Manifest",
    "ShardScene",
    "ShardSet",
    "ShardViews",
    "open_shards",
    "split_by_name",
    "write_shards",
]
