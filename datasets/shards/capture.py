"""One scene of a shard set as a capture: what was prepared can be streamed, looked at and judged.

The source is SET#SCENE, where SCENE is a scene's title (its name, and its variant after a slash).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from everview.datasets.captures import CaptureInfo, Frame
from everview.datasets.complete import CompleteCapture
from everview.datasets.errors import DataError
from everview.datasets.shards.reading import ShardSet, open_shards
from everview.datasets.shards.scene import PosedScene

FORMAT = "scene of a shard set"
_NAMED = 5


class SceneCapture(CompleteCapture):
    """The views of one scene, decoded together: a scene has a few dozen."""

    def __init__(self, source: str, scene: PosedScene, set_identity: str) -> None:
        super().__init__()
        self._scene = scene
        self._cameras = scene.cameras.unbind()
        self._identity = hashlib.blake2b(
            f"{set_identity}|{scene.title}".encode(), digest_size=16
        ).hexdigest()
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
        scene, place = self._scene, self.place_of(index)
        return Frame(
            place,
            scene.view_names[place] if scene.view_names else f"{place:04d}",
            scene.images[place],
            self._cameras[place],
            None if scene.time_s is None else float(scene.time_s[place]),
            None if scene.depth is None else scene.depth[place],
        )

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
