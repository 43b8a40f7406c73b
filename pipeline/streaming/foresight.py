"""Predict the next chunk, score it, then learn it: prequential PSNR, without peeking.

Before a chunk goes through the model, some of its cameras are drawn from the state as it was, and
the pictures compared with the frames: what a viewer would have seen had they looked there in time.
Nothing of the chunk is in that state. Two numbers a frame: of the picture (with texture copied from
the frame bank) and of the memory alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from everview.datasets.captures import Frame
from everview.pipeline.rendering.asked import AskedViews, RenderedView
from everview.pipeline.rendering.renderer import Renderer
from everview.pipeline.streaming.retention import image_psnr


@dataclass(frozen=True, eq=False)
class Foreseen:
    """Of one frame, before it was learned: PSNR in dB of the picture and of the memory alone, and
    the picture with its depth and confidence."""

    picture_db: float
    memory_db: float
    view: RenderedView


@dataclass(frozen=True, eq=False)
class Prediction:
    """Of some frames of a chunk, which a device may still be drawing: looking at it waits."""

    places: tuple[int, ...] = ()
    frames: tuple[Frame, ...] = ()
    asked: tuple[AskedViews, ...] = ()

    @cached_property
    def scores(self) -> dict[int, Foreseen]:
        """By place in the chunk."""
        views = (view for asked in self.asked for view in asked.views())
        seen = zip(self.places, self.frames, views, strict=True)
        return {place: _foreseen(view, frame.image) for place, frame, view in seen}


def _foreseen(view: RenderedView, truth: np.ndarray) -> Foreseen:
    assert view.memory_image is not None
    return Foreseen(image_psnr(view.image, truth), image_psnr(view.memory_image, truth), view)


@dataclass
class Foresight:
    """A stream's running means. views: frames of each chunk that are drawn, evenly taken."""

    views: int
    frames: int = 0
    picture_db: float = 0.0
    memory_db: float = 0.0

    def ask(self, chunk: Sequence[Frame], renderer: Renderer) -> Prediction:
        """Begin to draw; renderer: of the state before the chunk."""
        spread = np.linspace(0, len(chunk) - 1, min(self.views, len(chunk)))
        places = tuple(int(place) for place in np.unique(spread.round()))
        cameras = [chunk[place].camera for place in places]
        times = [chunk[place].time_s for place in places]
        asked = tuple(renderer.ask(cameras, times, True))
        return Prediction(places, tuple(chunk[place] for place in places), asked)

    def learn(self, scores: Iterable[Foreseen]) -> None:
        """A chunk's into the running means."""
        for seen in scores:
            self.frames += 1
            self.picture_db += (seen.picture_db - self.picture_db) / self.frames
            self.memory_db += (seen.memory_db - self.memory_db) / self.frames

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot, and for metrics.json."""
        return {
            "frames": self.frames,
            "picture_db": self.picture_db,
            "memory_db": self.memory_db,
        }

    def restore(self, facts: dict[str, Any]) -> None:
        """Inverse of `to_facts`."""
        self.frames = int(facts["frames"])
        self.picture_db, self.memory_db = float(facts["picture_db"]), float(facts["memory_db"])
