"""One scene of a shard set as a capture: what was prepared can be streamed, looked at and judged.

The source is SET#SCENE, where SCENE is a scene's title (its name, and its variant after a slash).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from everview.datasets.captures import CaptureInfo, Frame, IndexedCapture, Skip
from everview.datasets.errors import DataError
from everview.datasets.listed import check_state
from everview.datasets.shards.reading import ShardSet, open_shards
from everview.datasets.shards.scene import PosedScene

FORMAT = "scene of a shard set"
_NAMED = 5


class SceneCapture(IndexedCapture):
    """The views of one scene, decoded together: a scene has a few dozen."""

    def __init__(self, source: str, scene: PosedScene, set_identity: str) -> None:
        self._scene, self._next = scene, 0
        self._cameras = scene.cameras.unbind()
        self._identity = hashlib.blake2b(
            f"{set_identity}|{scene.title}".encode(), digest_size=16
        ).hexdigest()
        self.skipped: list[Skip] = []
        self.info = CaptureInfo(
            source,
            FORMAT,
            scene.origin.scale,
            scene.views,
            has_cameras=True,
            has_depth=scene.depth is not None,
            has_time=scene.time_s is not None,
            licence=scene.origin.licence,
            notes=(f"of {scene.origin.world}: {scene.origin.source}",),
        )

    def __len__(self) -> int:
        return self._scene.views

    def __getitem__(self, index: int) -> Frame:
        scene = self._scene
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        place = index % len(self)
        return Frame(
            place,
            scene.view_names[place] if scene.view_names else f"{place:04d}",
            scene.images[place],
            self._cameras[place],
            None if scene.time_s is None else float(scene.time_s[place]),
            None if scene.depth is None else scene.depth[place],
        )

    def __iter__(self) -> Iterator[Frame]:
        while self._next < len(self):
            self._next += 1
            yield self[self._next - 1]

    def state(self) -> dict[str, Any]:
        return {"identity": self.identity(), "next": self._next}

    def restore(self, state: dict[str, Any]) -> None:
        check_state(state, self)
        self._next = min(int(state["next"]), len(self))

    def rewind(self) -> None:
        self._next = 0

    def identity(self) -> str:
        return self._identity


def open_scene_capture(source: str) -> SceneCapture:
    """The scene that SET#SCENE names. Raises DataError when the set or the scene isn't there."""
    where, _, title = source.rpartition("#")
    shards = open_shards(Path(where))
    titles = scene_titles(shards)
    if title not in titles:
        some = ", ".join(titles[:_NAMED]) + (", ..." if len(titles) > _NAMED else "")
        raise DataError(f"{where} has no scene {title!r}; it has {some}")
    return SceneCapture(source, shards.scene(titles.index(title)), shards.identity)


def scene_titles(shards: ShardSet) -> list[str]:
    """Of every scene of a set, in order; decodes nothing."""
    return [entry.title for entry in shards.manifest.scenes]
