"""Frames and captures: what a reader gives, whatever the bytes looked like.

A `Capture` is an ordered, lazily decoded source of frames. Iterating decodes one frame at a time;
a frame that can't be read is skipped, named in `skipped` and counted, and the next one follows.
`state()` is a small JSON value: a capture opened again and restored gives the remaining frames.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.lenses import Lens

Scale = Literal["metric", "up_to_scale", "normalised"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One image with what is known about it.

    index: position among the frames that have an image, in order, from 0.
    image: uint8 [H, W, 3] sRGB. camera: its size equals the image's; None when unknown.
    time_s: seconds; None when the source has no clock. depth: float32 [H, W] along z in the
    capture's world units, 0 where unknown. mask: bool [H, W], False where the frame is ignored.
    """

    index: int
    name: str
    image: np.ndarray
    camera: Camera | None = None
    time_s: float | None = None
    depth: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Skip:
    """A frame that was left out: its name and the reason, one sentence."""

    name: str
    reason: str


@dataclass(frozen=True)
class CaptureInfo:
    """What a reader found out before it decoded a single image.

    source: the path or URL as given. format: the reader that recognised it, as said to the user.
    scale: unit of the world. num_frames: None when only decoding can tell (a video stream).
    points_world: sparse points of the source if it has any, float32 [N, 3] (COLMAP); for the gauge.
    lens: pinhole, of frames whose intrinsics are stated and whose poses are not; for odometry.
    notes: what was decided on the way (which model, which axes, what was assumed), for `inspect`.
    """

    source: str
    format: str
    scale: Scale
    num_frames: int | None
    has_cameras: bool
    has_depth: bool = False
    has_time: bool = False
    points_world: np.ndarray | None = None
    licence: str | None = None
    lens: Lens | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)


class Capture(ABC):
    """An ordered source of frames with a cursor that can be saved and restored."""

    info: CaptureInfo
    skipped: list[Skip]

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The remaining frames from the cursor on; advancing the iterator moves the cursor."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """The cursor, as JSON-compatible data, with the capture's identity."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Continue after `state`. Raises DataError if it was taken from another capture."""

    @abstractmethod
    def rewind(self) -> None:
        """Start again from the first frame."""

    @abstractmethod
    def identity(self) -> str:
        """A hash that is equal for equal input (names, sizes, cameras), for `run.json`."""


class IndexedCapture(Capture):
    """A capture of which any frame can be had without those before it."""

    @abstractmethod
    def __len__(self) -> int:
        """Frames that can be had."""

    @abstractmethod
    def __getitem__(self, index: int) -> Frame:
        """Frame `index` (negative counts from the end); the cursor stays."""
