"""Numbers that tell a picture from a failure, all on images uint8 [H, W, 3] of the model's size.

The gate looks at every frame: about a millisecond at 256 px, most of it in the source's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.images import LUMA

_TAPS = 5
_BLOCK = 8
_RAYS = 16
_CLIPPED = (2, 253)


@dataclass(frozen=True, eq=False)
class Look:
    """What is measured of one picture, each when it is first asked for."""

    image: np.ndarray

    @staticmethod
    def whole(image: np.ndarray) -> Look | None:
        """With all of it measured, ahead of the gate; None for what the gate refuses unseen."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            return None
        look = Look(image)
        for name in ("mean", "spread", "sharpness", "blur"):
            getattr(look, name)
        return look

    @cached_property
    def luma(self) -> np.ndarray:
        return luminance(self.image)

    @cached_property
    def blur(self) -> float:
        return blur(self.luma)

    @cached_property
    def sharpness(self) -> float:
        return sharpness(self.luma)

    @cached_property
    def mean(self) -> float:
        return float(self.luma.mean(dtype=np.float64))

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the luminance."""
        return float(self.luma.std())

    @cached_property
    def brightness(self) -> float:
        """log2 of the mean luminance."""
        return float(np.log2(self.mean + 1))


def luminance(image: np.ndarray) -> np.ndarray:
    """float32 [H, W], 0 to 255."""
    return image.astype(np.float32) @ LUMA


def sharpness(luma: np.ndarray) -> float:
    """Mean absolute Laplacian of the luminance, as a share of its mean: exposure changes both."""
    around = luma[:-2, 1:-1] + luma[2:, 1:-1]
    around += luma[1:-1, :-2]
    around += luma[1:-1, 2:]
    around -= 4 * luma[1:-1, 1:-1]
    return float(np.abs(around, out=around).mean() / (luma.mean() + 1))


def blur(luma: np.ndarray) -> float:
    """0 (sharp) to 1 (flat): what further blurring would still take away (Crete et al., "The blur
    effect", 2007), the blurrier of both directions. Hardly depends on contrast or content."""
    return max(_blur_along(luma, axis) for axis in (0, 1))


def _blur_along(luma: np.ndarray, axis: int) -> float:
    first, last = (luma[:1], luma[-1:]) if axis == 0 else (luma[:, :1], luma[:, -1:])
    steps = _apart(luma, 1, axis)
    total = float(steps.sum())
    if total < 1e-6:
        return 1.0
    # a mean over 5 pixels (edges repeated) moves on by a fifth of its ends' difference
    padded = np.concatenate([first, first, luma, last, last], axis)
    blurred = _apart(padded, _TAPS, axis)
    blurred *= np.float32(1 / _TAPS)
    steps -= blurred
    left = np.maximum(steps, 0, out=steps)
    return 1 - float(left.sum()) / total


def _apart(values: np.ndarray, places: int, axis: int) -> np.ndarray:
    """Absolute differences of values so many places apart."""
    if axis == 0:
        steps = values[places:] - values[:-places]
    else:
        steps = values[:, places:] - values[:, :-places]
    return np.abs(steps, out=steps)


def difference(image: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two images of one size, levels."""
    # in bytes and whole numbers throughout: exact, and five times as fast as by way of int16
    apart = np.maximum(image, other) - np.minimum(image, other)
    return int(apart.sum(dtype=np.uint64)) / apart.size


def shared_directions(camera: Camera, other: Camera) -> float:
    """Share of a camera's directions, over its picture, that `other` sees too: what both show of
    things far away, and nearly that of near ones where neither has moved far."""
    coarse, beside = camera.resized(_RAYS, _RAYS), other.c2w_cv.copy()
    beside[:3, 3] = camera.centre
    far = coarse.unproject(coarse.pixel_centres(), np.ones((_RAYS, _RAYS)))
    pixels, depth = other.moved(beside).project(far)
    inside = (pixels >= 0) & (pixels <= (other.width, other.height))
    return float((inside.all(-1) & (depth > 0)).mean())


def clipped_share(image: np.ndarray) -> float:
    """Share of values that are black or white to the end of the range."""
    low, high = _CLIPPED
    return float(((image < low) | (image > high)).mean())


def block_means(image: np.ndarray) -> np.ndarray:
    """float64 [blocks, 3]: means over 8x8 pixels, which forgive a shift of a few pixels."""
    rows, columns = image.shape[0] // _BLOCK, image.shape[1] // _BLOCK
    kept = image[: rows * _BLOCK, : columns * _BLOCK].astype(np.float64)
    return kept.reshape(rows, _BLOCK, columns, _BLOCK, 3).mean((1, 3)).reshape(-1, 3)


def root_mean_square(values: np.ndarray) -> float:
    """Of everything in it."""
    return float(np.sqrt(np.square(values).mean()))
