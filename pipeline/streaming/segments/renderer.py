"""Pictures from many segments: each camera is answered by the segment that covers it best."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from everview.datasets.cameras import Camera
from everview.models.captured import Answer
from everview.models.scene_model import SceneModel
from everview.pipeline.rendering.asked import AskedViews, RenderedView
from everview.pipeline.rendering.renderer import Renderer, SceneRenderer
from everview.pipeline.streaming.segments.archive import read_state
from everview.pipeline.streaming.segments.atlas import Atlas, Segment


class SegmentShelf:
    """Archived segments of a run on the device, those used last, as many as there is room for.

    Safe to use from several threads: one loads at a time, and what was handed out stays whole.
    """

    def __init__(self, run: Path, model: SceneModel, room: int, answer: Answer | None = None):
        """room: segments that are kept at most. answer: see `SceneRenderer`."""
        self.run, self.model, self.room = run, model, room
        self.loads = 0
        self._answer = answer
        self._kept: OrderedDict[str, SceneRenderer] = OrderedDict()
        self._lock = threading.Lock()

    def renderer(self, segment: Segment) -> SceneRenderer:
        """Of an archived segment, read from disk unless it is here. Raises InputRejected."""
        assert segment.file is not None
        with self._lock:
            kept = self._kept.pop(segment.file, None)
            if kept is None:
                while len(self._kept) >= self.room:  # first, so that there never are more
                    self._kept.popitem(last=False)
                kept = SceneRenderer(
                    self.model, read_state(self.run, segment.file, self.model), self._answer
                )
                self.loads += 1
            self._kept[segment.file] = kept
            return kept


class SegmentedRenderer(Renderer):
    """As `SceneRenderer`, of all segments of a stream; never changes, safe from several threads."""

    def __init__(self, atlas: Atlas, current: SceneRenderer, shelf: SegmentShelf):
        """current: of the segment that was written last."""
        self.model = current.model
        self._atlas, self._current, self._shelf = atlas, current, shelf
        self._answer: Answer | None = None

    def ask(
        self,
        cameras: Sequence[Camera],
        times_s: Sequence[float | None] | None = None,
        with_memory: bool = False,
    ) -> Iterator[AskedViews]:
        """As `SceneRenderer.ask`, each of the segment that covers its camera best."""
        times = [None] * len(cameras) if times_s is None else list(times_s)
        chosen = [self._atlas.nearest(*view) for view in zip(cameras, times, strict=True)]
        start = 0
        while start < len(cameras):
            stop = start + 1
            while stop < len(cameras) and chosen[stop] is chosen[start]:
                stop += 1
            one = self._of(chosen[start])
            yield from one.ask(cameras[start:stop], times[start:stop], with_memory)
            start = stop

    def depth_of(self, camera: Camera, image: np.ndarray, time_s: float | None) -> RenderedView:
        """As `SceneRenderer.depth_of`."""
        return self._of(self._atlas.nearest(camera, time_s)).depth_of(camera, image, time_s)

    def memory_images(
        self, cameras: Sequence[Camera], times_s: Sequence[float | None]
    ) -> list[np.ndarray]:
        """As `SceneRenderer.memory_images`, each of the segment that covers its camera best."""
        images: list[np.ndarray] = []
        for camera, time_s in zip(cameras, times_s, strict=True):
            nearest = self._of(self._atlas.nearest(camera, time_s))
            images.extend(nearest.memory_images([camera], [time_s]))
        return images

    def answered_by(self, answer: Answer) -> SegmentedRenderer:
        """As `SceneRenderer.answered_by`."""
        other = copy.copy(self)
        other._answer = answer
        return other

    def _of(self, segment: Segment) -> SceneRenderer:
        one = self._current if segment.file is None else self._shelf.renderer(segment)
        return one if self._answer is None else one.answered_by(self._answer)
