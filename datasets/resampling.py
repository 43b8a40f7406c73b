"""Frames at the sizes a model takes: the camera, the depth and the mask move with the image.

Colour is resampled with Lanczos (antialiased when shrinking), depth and masks by the nearest pixel.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from everview.datasets.captures import Frame
from everview.datasets.images import resize_nearest


def resize(frame: Frame, width: int, height: int) -> Frame:
    """The frame resampled to width x height pixels."""
    if frame.image.shape[:2] == (height, width):
        return frame
    image = Image.fromarray(frame.image).resize((width, height), Image.Resampling.LANCZOS)
    return replace(
        frame,
        image=np.array(image),
        camera=None if frame.camera is None else frame.camera.resized(width, height),
        depth=None if frame.depth is None else resize_nearest(frame.depth, width, height),
        mask=None if frame.mask is None else resize_nearest(frame.mask, width, height),
    )


def resize_short_side(frame: Frame, size: int) -> Frame:
    """The frame with its shorter side at `size` pixels, aspect kept to the nearest pixel."""
    height, width = frame.image.shape[:2]
    short = min(height, width)
    return resize(frame, round(width * size / short), round(height * size / short))


def crop(frame: Frame, left: int, top: int, width: int, height: int) -> Frame:
    """The window that starts at pixel (left, top). Raises ValueError if it leaves the image."""
    rows, columns = frame.image.shape[:2]
    if left < 0 or top < 0 or left + width > columns or top + height > rows:
        raise ValueError(f"crop of {width}x{height} at {left}, {top} leaves {columns}x{rows}")
    window = (slice(top, top + height), slice(left, left + width))
    return replace(
        frame,
        image=np.ascontiguousarray(frame.image[window]),
        camera=None if frame.camera is None else frame.camera.cropped(left, top, width, height),
        depth=None if frame.depth is None else np.ascontiguousarray(frame.depth[window]),
        mask=None if frame.mask is None else np.ascontiguousarray(frame.mask[window]),
    )


def centre_crop(frame: Frame, width: int, height: int) -> Frame:
    """The window of width x height in the middle (an odd pixel over stays right and below)."""
    rows, columns = frame.image.shape[:2]
    return crop(frame, (columns - width) // 2, (rows - height) // 2, width, height)


def fit_frame(frame: Frame, size: int, square: bool, multiple_of: int = 8) -> Frame:
    """The frame as a model takes it.

    square: the evaluation protocol, short side to `size`, then the centre `size` x `size`.
    Otherwise the full aspect: short side `size`, both sides rounded to `multiple_of` (the focal
    lengths take up the change of aspect, at most half a patch).
    """
    if square:
        return centre_crop(resize_short_side(frame, size), size, size)
    rows, columns = frame.image.shape[:2]
    width, height = fitted_size(columns, rows, size, multiple_of)
    return resize(frame, width, height)


def fitted_size(width: int, height: int, size: int, multiple_of: int = 8) -> tuple[int, int]:
    """Width and height of `fit_frame(..., square=False)`."""
    short = min(width, height)

    def rounded(side: int) -> int:
        return max(1, round(side * size / (short * multiple_of))) * multiple_of

    return rounded(width), rounded(height)
