"""How long the memory keeps its first chunk: rendered again after every later one.

R(n) is the PSNR of first-chunk frames after n chunks, drawn by the memory alone (a frame bank keeps
pictures and would hide forgetting). The floor is what one colour, the frame's mean, would reach.
The half-life is where the gain over that floor has halved; a memory that never gets there has none
yet, and the stream's length is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from everview.datasets.captures import Frame
from everview.pipeline.evaluation.image_metrics import psnr


@dataclass
class RetentionProbe:
    """The first chunk's frames that are drawn again, and what that gave so far.

    frames: at most a few, as resized. curve: R(1), R(2), ... in dB, mean over the frames.
    """

    frames: tuple[Frame, ...] = ()
    curve: list[float] = field(default_factory=list)

    @staticmethod
    def choose(chunk: Sequence[Frame], count: int) -> RetentionProbe:
        """Evenly from the first chunk."""
        places = np.linspace(0, len(chunk) - 1, min(count, len(chunk))).round().astype(int)
        return RetentionProbe(tuple(chunk[place] for place in np.unique(places)))

    def measure(self, draw: Callable[[Frame], np.ndarray]) -> None:
        """Add one point; draw: a frame's camera and time to the picture the memory alone gives."""
        if self.frames:
            values = [image_psnr(draw(frame), frame.image) for frame in self.frames]
            self.curve.append(float(np.mean(values)))

    def half_life(self) -> tuple[float | None, str]:
        """In chunks, or None and the reason."""
        if not self.frames:
            return None, "retention was not probed"
        floor = float(np.mean([mean_colour_psnr(frame.image) for frame in self.frames]))
        return half_life_chunks(self.curve, floor)


def image_psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB of two uint8 [H, W, 3] images, as the evaluation defines it."""
    pair = [torch.from_numpy(np.array(x)).permute(2, 0, 1)[None] / 255 for x in (image, truth)]
    return psnr(*pair).item()


def mean_colour_psnr(truth: np.ndarray) -> float:
    """PSNR of the frame's own mean colour: what remembering nothing but the tone reaches."""
    mean = truth.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    return image_psnr(np.broadcast_to(mean, truth.shape), truth)


def half_life_chunks(curve: list[float], floor: float) -> tuple[float | None, str]:
    """Chunks until the first chunk's gain over `floor` has halved, and a reason if unknown.

    curve: R(1), R(2), ... Linear between the chunks where the half is crossed.
    """
    if len(curve) < 2:
        return None, "the stream has fewer than two chunks, so nothing could be forgotten"
    gain = curve[0] - floor
    if gain < 0.5:
        return None, f"the first chunk was never learned: {gain:.2f} dB above its mean colour"
    half = floor + gain / 2
    for index in range(1, len(curve)):
        if curve[index] <= half:
            fraction = (curve[index - 1] - half) / max(curve[index - 1] - curve[index], 1e-9)
            return index - 1 + fraction, ""
    return None, f"more than half of the gain is left after {len(curve) - 1} further chunks"
