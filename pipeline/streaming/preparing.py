"""Frames on their way to the model: resized once, and read a second time for comparison."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from everview.datasets.captures import Capture, Frame, IndexedCapture
from everview.datasets.errors import DataError, printable
from everview.datasets.resampling import fit_frame
from everview.pipeline.posing.posed_capture import PosedCapture
from everview.pipeline.streaming.sources.kept import KeptFrames


def prepared(frame: Frame, size: int, patch: int) -> Frame:
    """The frame as the model takes it: full aspect, short side `size`, sides rounded to `patch`.

    Its name is made printable. Raises DataError for a picture that no reader would have made (a
    program's own frames may).
    """
    image = frame.image
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise DataError("the picture holds values that are not finite")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"the picture is {image.dtype} {list(image.shape)}, not uint8 [H, W, 3]")
    named = replace(frame, name=printable(frame.name))
    return fit_frame(named, size, square=False, multiple_of=patch)


def is_held_out(frame: Frame, every: int) -> bool:
    """Indices 0, n, 2n, ... of the frames that have an image; none when `every` is 0."""
    return every > 0 and frame.index % every == 0


def readable_again(capture: Capture, indices: np.ndarray) -> np.ndarray:
    """Those of the frames that can be read a second time: all, but not all of a live stream's."""
    if isinstance(capture, KeptFrames):
        return indices[np.isin(indices, capture.indices())]
    return indices


def read_again(capture: Capture, wanted: set[int]) -> Iterator[Frame]:
    """The frames with these indices, from the start of the capture; stops after the last."""
    left = set(wanted)
    if not left:
        return
    if isinstance(capture, PosedCapture):
        yield from map(capture.posed, read_again(capture.capture, wanted))
        return
    if isinstance(capture, IndexedCapture):  # what lies between is neither decoded nor drawn
        yield from (capture[index] for index in sorted(left))
        return
    capture.rewind()
    for frame in capture:
        if frame.index in left:
            left.discard(frame.index)
            yield frame
            if not left:
                return
