"""Pictures on disk: colour as PNG; depth as 16-bit PNG, as float32 with its unit, as colours."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from everview.datasets.captures import Scale

# dark blue - violet - red - amber - pale yellow: brightness rises evenly, so near and far can be
# told apart in print and by the colour-blind
_RAMP = np.array(
    [[13, 8, 60], [70, 15, 110], [140, 35, 105], [205, 70, 65], [245, 135, 30], [252, 250, 180]],
    np.float64,
)


def png_bytes(image: np.ndarray) -> bytes:
    """The PNG file of a picture uint8 [H, W, 3], for whoever keeps it."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, format="PNG")
    return file.getvalue()


def write_image(file: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] as PNG, complete or not at all."""
    _save(Image.fromarray(np.ascontiguousarray(image)), file)


def colourise_depth(
    depth: np.ndarray, near: float | None = None, far: float | None = None
) -> np.ndarray:
    """Depth [H, W] as uint8 [H, W, 3]: near is bright, far is dark, unknown (0) is grey.

    Disparity, not depth, is spread over the colours: detail lies near the camera. near, far: the
    ends of the range in the depth's unit; default: its 2nd and 98th percentile.
    """
    known = np.isfinite(depth) & (depth > 0)
    picture = np.full((*depth.shape, 3), 128, np.uint8)
    if not known.any():
        return picture
    near = near or float(np.percentile(depth[known], 2))
    far = far or float(np.percentile(depth[known], 98))
    span = max(1 / near - 1 / far, 1e-12)
    level = np.clip((1 / depth[known] - 1 / far) / span, 0, 1)
    knots = np.linspace(0, 1, len(_RAMP))
    colours = np.stack([np.interp(level, knots, channel) for channel in _RAMP.T], axis=-1)
    picture[known] = colours.round().astype(np.uint8)
    return picture


class DepthFolder:
    """`depth/`: for each view NAME.png (16 bit), NAME.npz (float32 `depth`, `confidence`),
    NAME_colour.png and NAME_confidence.png (white is sure), with the units in `units.json`.

    A PNG value is depth x `png_per_unit`, 0 is unknown. Metric captures: millimetres. Others have
    no unit of length; they get the same factor of 1000 unless the scene is too deep for 16 bits.
    """

    def __init__(self, folder: Path, scale: Scale, deepest: float):
        """deepest: about the largest depth that must fit, in world units."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.png_per_unit = 1000.0
        if scale != "metric" and deepest > 0:
            while deepest * self.png_per_unit > 60_000:
                self.png_per_unit /= 10
        units = {
            "unit": "metre" if scale == "metric" else "world unit of the capture",
            "scale": scale,
            "png_per_unit": self.png_per_unit,
            "unknown": 0,
            "along": "the camera's z axis",
        }
        (folder / "units.json").write_text(json.dumps(units, indent=2) + "\n", "utf-8")

    def write(self, name: str, depth: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Write one view; depth float [H, W] in world units, confidence float [H, W] or None."""
        depth = np.nan_to_num(np.asarray(depth, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        counts = np.clip(np.round(depth * self.png_per_unit), 0, 65_535).astype(np.uint16)
        counts[depth * self.png_per_unit > 65_535] = 0  # too deep to say: unknown, not 65535
        _save(Image.fromarray(counts), self.folder / f"{name}.png")
        write_image(self.folder / f"{name}_colour.png", colourise_depth(depth))
        arrays: dict[str, Any] = {"depth": depth}
        if confidence is not None:
            arrays["confidence"] = np.asarray(confidence, np.float32)
            sure = np.clip(np.round(255 * arrays["confidence"]), 0, 255).astype(np.uint8)
            _save(Image.fromarray(sure), self.folder / f"{name}_confidence.png")
        partial = self.folder / f".{name}.partial.npz"
        np.savez_compressed(partial, **arrays)
        os.replace(partial, self.folder / f"{name}.npz")


def _save(image: Image.Image, file: Path) -> None:
    partial = file.with_name(f".{file.name}.partial")
    image.save(partial, format="PNG")
    os.replace(partial, file)
