"""Frames on their way to the model: resized once, and read a second time for comparison."""

from __future__ import annotations

from collections.abc import Iterator

from everview.datasets.captures import Capture, Frame
from everview.datasets.listed import ListedCapture
from everview.datasets.resampling import fit_frame


def prepared(frame: Frame, size: int, patch: int) -> Frame:
    """The frame as the model takes it: full aspect, short side `size`, sides rounded to `patch`."""
    return fit_frame(frame, size, square=False, multiple_of=patch)


def is_held_out(frame: Frame, every: int) -> bool:
    """Indices 0, n, 2n, ... of the frames that have an image; none when `every` is 0."""
    return every > 0 and frame.index % every == 0


def read_again(capture: Capture, wanted: set[int]) -> Iterator[Frame]:
    """The frames with these indices, from the start of the capture; stops after the last."""
    left = set(wanted)
    if not left:
        return
    if isinstance(capture, ListedCapture):  # no need to decode what lies between
        yield from (capture[index] for index in sorted(left))
        return
    capture.rewind()
    for frame in capture:
        if frame.index in left:
            left.discard(frame.index)
            yield frame
            if not left:
                return
