"""The floors of a stream's held-out frames, as `evaluate` defines them, from two lazy passes.

The mean colour is kept while the frames come in; the nearest observed frame is met again when the
capture is read a second time. A picture is kept only until the last frame that it is compared with.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from everview.datasets.captures import Frame
from everview.datasets.resampling import resize
from everview.pipeline.evaluation.floors import mean_colour
from everview.pipeline.streaming.review import mean_of

Scores = dict[str, float | None]
_NAMES = ("mean_colour", "nearest_view")


@dataclass
class RunningColour:
    """The mean colour of frames that come one by one, each counted once whatever its size."""

    total: np.ndarray = field(default_factory=lambda: np.zeros(3))
    frames: int = 0

    def add(self, frame: Frame) -> None:
        """Count a frame in."""
        self.total = self.total + mean_colour([frame.image])
        self.frames += 1

    def mean(self) -> np.ndarray | None:
        """float64 [3] of 0 to 255; None where it isn't known."""
        is_known = self.frames > 0 and bool(np.isfinite(self.total).all())
        return self.total / self.frames if is_known else None

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot."""
        return {"total": self.total.tolist(), "frames": self.frames}

    @staticmethod
    def from_facts(facts: Mapping[str, Any] | None) -> RunningColour:
        """From a snapshot; None, of one that holds no colour, stays unknown whatever is added."""
        if facts is None:
            return RunningColour(np.full(3, np.nan))
        return RunningColour(np.asarray(facts["total"], np.float64), int(facts["frames"]))


class StreamFloors:
    """Scores of the two floors over the held-out frames, which come in any order with the others.

    colour: of the observed frames, 0 to 255. nearest: for each held-out frame's index, that of the
    observed frame nearest to it. score: of a picture [H, W, 3] of 0 to 255 against a frame.
    """

    def __init__(
        self,
        colour: np.ndarray | None,
        nearest: Mapping[int, int],
        score: Callable[[np.ndarray, Frame], Scores],
    ) -> None:
        self._colour, self._nearest, self._score = colour, nearest, score
        self._rows: dict[str, list[Scores]] = {name: [] for name in _NAMES}
        self._uses = Counter(nearest.values())
        self._pictures: dict[int, Frame] = {}
        self._waiting: dict[int, list[Frame]] = defaultdict(list)

    def add_held_out(self, frame: Frame) -> None:
        """Compare a held-out frame, now or when its nearest observed frame comes; as resized."""
        if self._colour is not None:
            flat = np.broadcast_to(self._colour, frame.image.shape)
            self._rows["mean_colour"].append(self._score(flat, frame))
        index = self._nearest.get(frame.index)
        if index is None:
            return
        if index in self._pictures:
            self._compare(self._pictures[index], frame)
        else:
            self._waiting[index].append(frame)

    def add_observed(self, frame: Frame) -> None:
        """Compare with the held-out frames that wait for this one; keep it for those to come."""
        if not self._uses[frame.index]:
            return
        self._pictures[frame.index] = frame
        for held_out in self._waiting.pop(frame.index, []):
            self._compare(frame, held_out)

    def _compare(self, observed: Frame, held_out: Frame) -> None:
        height, width = held_out.image.shape[:2]
        picture = resize(observed, width, height).image
        self._rows["nearest_view"].append(self._score(picture, held_out))
        self._uses[observed.index] -= 1
        if not self._uses[observed.index]:
            del self._pictures[observed.index]

    def means(self) -> dict[str, Scores]:
        """The means over the frames of every floor that could be drawn."""
        drawn = {name: rows for name, rows in self._rows.items() if rows}
        return {name: {key: mean_of(rows, key) for key in rows[0]} for name, rows in drawn.items()}

    def missing(self) -> dict[str, str]:
        """Why the other floors have no numbers, by their keys in metrics.json."""
        reasons = {"floors.depth_warp": "measured by `everview evaluate`"}
        if not self._rows["mean_colour"]:
            reasons["floors.mean_colour"] = "the snapshot that was continued holds no mean colour"
        if not self._rows["nearest_view"]:
            reasons["floors.nearest_view"] = "no nearest observed frame could be read again"
        return reasons
