"""Frames that change their size, orientation or lens in mid-stream: named, and never mixed.

The memory is the same whatever a frame's size: tokens are planned for each chunk. A chunk has one
size, so a change closes the one that is pending. The first chunk fixes the gauge and isn't cut
short: frames of another size are resampled to its first one's, intrinsics and all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from everview.datasets.captures import Frame
from everview.datasets.resampling import resize

_LENS_CHANGE = 0.05
"""Relative: focus that breathes changes a focal length by 1 or 2 %, and each frame may have its own
calibration; a zoom or another lens is more."""


def changes_of_form(before: Frame | None, frame: Frame) -> list[tuple[str, dict[str, Any]]]:
    """Events with their facts: what changed since the frame that was written last, if any was.

    Sizes are those the model sees, width and height; a lens is fx and fy in short sides, cx and cy
    as shares.
    """
    if before is None or before.camera is None or frame.camera is None:
        return []
    found: list[tuple[str, dict[str, Any]]] = []
    sizes = [(each.camera.width, each.camera.height) for each in (before, frame) if each.camera]
    if sizes[0] != sizes[1]:
        found.append(("size changed", {"before": list(sizes[0]), "after": list(sizes[1])}))
    lenses = [_lens(each) for each in (before, frame)]
    if (np.abs(lenses[1] - lenses[0]) > _LENS_CHANGE * np.abs(lenses[0])).any():
        told = [[round(float(value), 4) for value in lens] for lens in lenses]
        found.append(("lens changed", {"before": told[0], "after": told[1]}))
    return found


def at_size_of(pending: Sequence[Frame], frame: Frame, has_gauge: bool) -> tuple[Frame, bool]:
    """The frame as it joins the chunk, and whether the pending one is closed before it."""
    if not pending or pending[-1].image.shape == frame.image.shape:
        return frame, False
    if has_gauge:
        return frame, True
    height, width = pending[-1].image.shape[:2]
    return resize(frame, width, height), False


def _lens(frame: Frame) -> np.ndarray:
    """Focal lengths in short sides, which a turned camera keeps, and the principal point in widths
    and heights [4]."""
    camera = frame.camera
    assert camera is not None
    short = min(camera.width, camera.height)
    sides = np.array([short, short, camera.width, camera.height])
    return np.array([camera.fx, camera.fy, camera.cx, camera.cy]) / sides
