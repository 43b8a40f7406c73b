"""How long the memory keeps its first chunk: rendered again after every later one.

A segment is a memory of its own: with the next one the next first chunk is drawn, by the state that
is written, since what is archived forgets nothing. The curve goes on through all of them; the
half-life is that of the first segment in which the gain has halved.

R(n) is the PSNR of first-chunk frames after n chunks, drawn by the memory alone (a frame bank keeps
pictures and would hide forgetting). The floor is what one colour, the frame's mean, would reach.
The half-life is where the gain over that floor has halved; a memory that never gets there has none
yet, and the stream's length is a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from everview.datasets.captures import Frame
from everview.pipeline.evaluation.image_metrics import PSNR_CAP_DB
from everview.pipeline.rendering.renderer import Renderer
from everview.pipeline.streaming.sampled import Sampled

_LEAST_GAIN_DB = 0.5


@dataclass
class HalfLife:
    """Chunks until the first chunk's gain over `floor` has halved, from R(1), R(2), ... as they
    come: linear between the chunks where the half is crossed first."""

    floor: float
    first: float | None = None
    last: float = 0.0
    count: int = 0
    chunks: float | None = None

    def add(self, value: float) -> None:
        """The next chunk's, in dB."""
        if self.first is None:
            self.first = value
        half = self.floor + (self.first - self.floor) / 2
        if self.chunks is None and self.count and value <= half and self._is_learned:
            fraction = (self.last - half) / max(self.last - value, 1e-9)
            self.chunks = self.count - 1 + fraction
        self.last = value
        self.count += 1

    def result(self) -> tuple[float | None, str]:
        """In chunks, or None and the reason."""
        if self.first is None or self.count < 2:
            return None, "the stream has fewer than two chunks, so nothing could be forgotten"
        if not self._is_learned:
            gain = self.first - self.floor
            return None, f"the first chunk was never learned: {gain:.2f} dB above its mean colour"
        if self.chunks is None:
            return None, f"more than half of the gain is left after {self.count - 1} further chunks"
        return self.chunks, ""

    @property
    def _is_learned(self) -> bool:
        return self.first is not None and self.first - self.floor >= _LEAST_GAIN_DB


@dataclass
class RetentionProbe:
    """The first chunk's frames that are drawn again, and what that gave so far.

    frames: at most a few, as resized. curve: of R(1), R(2), ... in dB, mean over the frames, evenly
    taken. half: what those of this segment say. halved: of the first segment that got there.
    """

    frames: tuple[Frame, ...] = ()
    curve: Sampled = field(default_factory=Sampled)
    half: HalfLife = field(init=False)
    halved: float | None = None

    def __post_init__(self) -> None:
        colours = [mean_colour_psnr(frame.image) for frame in self.frames]
        self.half = HalfLife(float(np.mean(colours)) if colours else 0.0)

    @staticmethod
    def choose(chunk: Sequence[Frame], count: int) -> RetentionProbe:
        """Evenly from the first chunk."""
        places = np.linspace(0, len(chunk) - 1, min(count, len(chunk))).round().astype(int)
        return RetentionProbe(tuple(chunk[place] for place in np.unique(places)))

    def next_segment(self, chunk: Sequence[Frame], count: int) -> RetentionProbe:
        """Of the segment that begins with this chunk."""
        probe = RetentionProbe.choose(chunk, count)
        probe.curve, probe.halved = self.curve, self._halved
        return probe

    @property
    def _halved(self) -> float | None:
        return self.half.result()[0] if self.halved is None else self.halved

    def measure(self, renderer: Renderer) -> float | None:
        """Add one point, and return it; renderer: of the state as it is now. None when nothing is
        probed."""
        if not self.frames:
            return None
        cameras, times = [f.camera for f in self.frames], [f.time_s for f in self.frames]
        drawn = zip(renderer.memory_images(cameras, times), self.frames, strict=True)
        value = float(np.mean([image_psnr(image, frame.image) for image, frame in drawn]))
        self.curve.add(value)
        self.half.add(value)
        return value

    @property
    def drift_db(self) -> float | None:
        """What the first chunk has lost since it was learned; None before two points."""
        if self.half.first is None or self.half.count < 2:
            return None
        return self.half.first - self.half.last

    def half_life(self) -> tuple[float | None, str]:
        """In chunks, or None and the reason."""
        if not self.frames:
            return None, "retention was not probed"
        return self.half.result() if self.halved is None else (self.halved, "")

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot; `frames` are the caller's to keep."""
        half = {"first": self.half.first, "last": self.half.last, "chunks": self.half.chunks}
        half |= {"count": self.half.count}
        return {"curve": self.curve.to_facts(), "half": half, "halved": self.halved}

    @staticmethod
    def from_facts(facts: Mapping[str, Any], frames: Sequence[Frame]) -> RetentionProbe:
        """Inverse of `to_facts`."""
        made = RetentionProbe(tuple(frames), Sampled.from_facts(facts["curve"]))
        made.half = HalfLife(made.half.floor, **facts["half"])
        made.halved = facts.get("halved")
        return made


def image_psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB of two uint8 [H, W, 3] images, as the evaluation defines it; from whole numbers,
    since it is asked several times for every chunk."""
    apart = (np.maximum(image, truth) - np.minimum(image, truth)).astype(np.uint16)
    error = int((apart * apart).sum(dtype=np.uint64)) / (apart.size * 255.0**2)
    return min(PSNR_CAP_DB, -10 * math.log10(error)) if error else PSNR_CAP_DB


def mean_colour_psnr(truth: np.ndarray) -> float:
    """PSNR of the frame's own mean colour: what remembering nothing but the tone reaches."""
    mean = truth.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    return image_psnr(np.broadcast_to(mean, truth.shape), truth)
