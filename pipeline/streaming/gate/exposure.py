"""Exposure jumps: found by brightness, mended by a colour fit to what should be seen.

A camera that changes its exposure shows the same scene in other numbers. If one gain, one gain a
channel, or one gain and offset a channel (the simplest that is nearly as good as the best) takes
the frame to what the memory predicts there, or to the last written picture, the frame is written
in the stream's own colours. Each fit is least squares over means of 8x8 pixels, clipped blocks left
out: predictions are soft, and neighbouring frames are a few pixels off. A fit that only matches the
mean explains nothing: it has to leave less than half of the reference's own variation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from everview.pipeline.streaming.gate.measures import block_means, root_mean_square
from everview.pipeline.streaming.gate.thresholds import GateThresholds

_LEAST_BLOCKS = 8
_USABLE = (4.0, 251.0)
_MOST_GAIN = 5.0
_NEARLY = 1.2


@dataclass(frozen=True, eq=False)
class ColourFit:
    """reference = gain * frame + offset, by channel (float64 [3]). Root mean squares, in levels:
    error and error_before, with and without it; spread, of the reference about its mean."""

    gain: np.ndarray
    offset: np.ndarray
    error: float
    error_before: float
    spread: float

    def explains(self, limits: GateThresholds) -> bool:
        """Whether the fit, and not another scene, is why the pictures differ."""
        is_exposure = bool(((self.gain > 1 / _MOST_GAIN) & (self.gain < _MOST_GAIN)).all())
        least = limits.explained * min(self.error_before, self.spread)
        return is_exposure and self.error <= min(least, limits.misfit)

    def is_a_change(self, limits: GateThresholds) -> bool:
        """Whether it does more than a scene's own brightness would."""
        overall = float(np.exp(np.abs(np.log(np.maximum(self.gain, 1e-3))).mean()))
        return overall > limits.unchanged_gain

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The image in the reference's colours, uint8."""
        return (image * self.gain + self.offset).round().clip(0, 255).astype(np.uint8)


def rectifying_fit(
    image: np.ndarray, reference: np.ndarray, limits: GateThresholds
) -> ColourFit | None:
    """The simplest fit of `image` to `reference` that explains their difference; None if none."""
    seen, expected = block_means(image), block_means(reference)
    low, high = _USABLE
    usable = ((seen > low) & (seen < high) & (expected > low) & (expected < high)).all(1)
    if usable.sum() < _LEAST_BLOCKS:
        return None
    fits = list(_fits(seen[usable], expected[usable]))
    best = min(fit.error for fit in fits)
    chosen = next(fit for fit in fits if fit.error <= _NEARLY * best + 0.5)
    return chosen if chosen.explains(limits) and chosen.is_a_change(limits) else None


def agrees(image: np.ndarray, reference: np.ndarray, limits: GateThresholds) -> bool:
    """Whether an image is what the reference shows as it stands: bright, and rightly so."""
    return root_mean_square(block_means(image) - block_means(reference)) <= limits.misfit


def _fits(seen: np.ndarray, expected: np.ndarray) -> Iterator[ColourFit]:
    before = root_mean_square(seen - expected)
    spread = root_mean_square(expected - expected.mean(0))
    for solve in (_one_gain, _gain_by_channel, _gain_and_offset):
        gain, offset = solve(seen, expected)
        error = root_mean_square(seen * gain + offset - expected)
        yield ColourFit(gain, offset, error, before, spread)


def _one_gain(seen: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.full(3, (seen * expected).sum() / (seen * seen).sum()), np.zeros(3)


def _gain_by_channel(seen: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (seen * expected).sum(0) / (seen * seen).sum(0), np.zeros(3)


def _gain_and_offset(seen: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    middle, wanted = seen.mean(0), expected.mean(0)
    spread = np.maximum(((seen - middle) ** 2).sum(0), 1e-9)
    gain = ((seen - middle) * (expected - wanted)).sum(0) / spread
    return gain, wanted - gain * middle
