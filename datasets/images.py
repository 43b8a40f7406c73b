"""Image files to arrays: colour, depth and masks, within the limits of `guards`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from everview.datasets.errors import DataError
from everview.datasets.guards import (
    MAX_PIXELS,
    EncodedImage,
    image_file,
    load_npy,
    warnings_as_errors,
)

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luminance (Rec. 601)."""
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)


def read_colour(
    path: Path | EncodedImage,
    background: Colour = WHITE,
    *,
    orient: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """An image as uint8 [H, W, 3] sRGB.

    Transparency is straight alpha and is composited on `background` in 8-bit sRGB, as everyone's
    evaluation does. orient: apply the EXIF orientation (for files without a stated camera; an
    intrinsic matrix refers to the pixels as they are stored).
    """
    with image_file(path, max_pixels) as image:
        if orient:
            image.load()
            with warnings_as_errors():
                return _to_rgb(ImageOps.exif_transpose(image), background)
        return _to_rgb(image, background)


def _to_rgb(image: Image.Image, background: Colour) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "F":
            raise DataError("a floating-point image has no stated colour range")
        # 16-bit grey: Pillow would clip at 255 instead of scaling.
        grey = (np.clip(values, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGB", layer.size, background)
        canvas.paste(layer, mask=layer.getchannel("A"))
        return np.array(canvas)
    return np.array(image.convert("RGB"))


def read_depth(
    path: Path | EncodedImage,
    unit: float,
    unknown: tuple[float, ...] = (0.0,),
    *,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Depth along z as float32 [H, W]: stored values times `unit`; 0 where unknown.

    unit: world units of one stored step (0.001 for millimetres in a metric world).
    unknown: stored values that mean "not measured"; what is negative or not finite is unknown too.
    """
    if isinstance(path, Path) and path.suffix.lower() == ".npy":
        stored = load_npy(path, max_pixels * 8 + 4096)
    else:
        with image_file(path, max_pixels) as image:
            if image.mode not in ("I", "F", "L") and not image.mode.startswith("I;16"):
                raise DataError(f"{path} has colour mode {image.mode}, not one channel of depth")
            stored = np.asarray(image)
    stored = stored.squeeze()
    if stored.ndim != 2 or stored.dtype.kind not in "uif":
        raise DataError(f"{path} holds {stored.dtype} of shape {stored.shape}, not a depth map")
    depth = stored.astype(np.float32) * np.float32(unit)
    depth[np.isin(stored, unknown) | ~np.isfinite(depth) | (depth < 0)] = 0.0
    return depth


def read_mask(path: Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A mask as bool [H, W]: black (0) means ignore, anything else keep."""
    with image_file(path, max_pixels) as image:
        return np.array(image.convert("L")) > 0


def resize_nearest(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """[H, W, ...] resampled to [height, width, ...] by the nearest pixel centre."""
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(np.intp)
    return np.ascontiguousarray(values[rows[:, None], columns])
