"""Predict the next chunk, score it, then learn it: prequential PSNR, without peeking.

Before a chunk goes through the model, some of its cameras are drawn from the state as it was, and
the pictures compared with the frames: what a viewer would have seen had they looked there in time.
Nothing of the chunk is in that state. Two numbers a frame: of the picture (with texture copied from
the frame bank) and of the memory alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from everview.datasets.captures import Frame
from everview.pipeline.rendering.renderer import RenderedView, Renderer
from everview.pipeline.streaming.retention import image_psnr


@dataclass(frozen=True, eq=False)
class Foreseen:
    """Of one frame, before it was learned: PSNR in dB of the picture and of the memory alone, and
    the picture with its depth and confidence."""

    picture_db: float
    memory_db: float
    view: RenderedView


@dataclass
class Foresight:
    """A stream's running means. views: frames of each chunk that are drawn, evenly taken."""

    views: int
    frames: int = 0
    picture_db: float = 0.0
    memory_db: float = 0.0

    def measure(self, chunk: Sequence[Frame], renderer: Renderer) -> dict[int, Foreseen]:
        """By place in the chunk. renderer: of the state before the chunk."""
        if not self.views:
            return {}
        spread = np.linspace(0, len(chunk) - 1, min(self.views, len(chunk)))
        places = [int(place) for place in np.unique(spread.round())]
        cameras = [chunk[place].camera for place in places]
        times = [chunk[place].time_s for place in places]
        scores = {}
        for place, view in zip(places, renderer.render(cameras, times, True), strict=True):
            truth = chunk[place].image
            picture, memory = (image_psnr(i, truth) for i in (view.image, view.memory_image))
            seen = Foreseen(picture, memory, view)
            scores[place] = seen
            self.frames += 1
            self.picture_db += (seen.picture_db - self.picture_db) / self.frames
            self.memory_db += (seen.memory_db - self.memory_db) / self.frames
        return scores

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
