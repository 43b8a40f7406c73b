"""`ListedCapture`: a capture whose frames are listed before any is decoded.

Every format but video ends here: a reader turns its index into `FrameRecord`s, this class decodes
them one at a time (colour, depth, mask), takes the lens distortion out, and keeps the cursor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.captures import Capture, CaptureInfo, Frame, IndexedCapture, Skip
from everview.datasets.errors import DataError, printable
from everview.datasets.guards import MAX_PIXELS, image_size
from everview.datasets.images import (
    WHITE,
    Colour,
    read_colour,
    read_depth,
    read_mask,
    resize_nearest,
)
from everview.datasets.lenses import Lens, rectify


@dataclass(frozen=True)
class ReadOptions:
    """What the caller decides about reading.

    background: colour (sRGB, 0 to 255) under transparent pixels. allow_external_paths: follow
    paths and links that leave the capture's folder. max_pixels: larger images are refused unread.
    """

    background: Colour = WHITE
    allow_external_paths: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """Where one frame's parts lie. Paths are already resolved and inside the capture's folder.

    lens: without c2w_cv where only intrinsics are stated. depth_unit: world units of one step.
    depth_unknown: stored values that mean "not measured".
    """

    name: str
    image: Path
    lens: Lens | None = None
    c2w_cv: np.ndarray | None = None
    time_s: float | None = None
    depth: Path | None = None
    depth_unit: float = 0.001
    depth_unknown: tuple[float, ...] = (0.0,)
    mask: Path | None = None
    orient: bool = False


class ListedCapture(IndexedCapture):
    """Frames from records, decoded when asked for; memory doesn't grow with their number.

    `skipped` starts with what the reader left out and gains what can't be decoded.
    Raises DataError when nothing is listed, or when a whole pass finds no usable frame.
    """

    def __init__(
        self,
        info: CaptureInfo,
        records: Sequence[FrameRecord],
        skipped: Sequence[Skip] = (),
        options: ReadOptions | None = None,
    ) -> None:
        if not records:
            raise DataError(no_usable_frame(info.source, skipped))
        self.records = tuple(records)
        self.options = options or ReadOptions()
        self.info = replace(
            info,
            num_frames=len(records),
            has_cameras=any(record.c2w_cv is not None for record in records),
            has_depth=any(record.depth is not None for record in records),
            has_time=any(record.time_s is not None for record in records),
            lens=_unposed_lens(records),
        )
        self._left_out = tuple(Skip(printable(skip.name), skip.reason) for skip in skipped)
        self._sizes: dict[int, tuple[int, int]] = {}
        self._identity: str | None = None
        self._next = self._usable = 0
        self.skipped = list(self._left_out)

    def __len__(self) -> int:
        """Frames that have an image file, readable or not."""
        return len(self.records)

    def __getitem__(self, index: int) -> Frame:
        """Decode frame `index` (negative counts from the end); the cursor stays.

        Raises DataError if the frame can't be used, IndexError past the ends.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return self._decode(index % len(self))

    def __iter__(self) -> Iterator[Frame]:
        while self._next < len(self.records):
            index = self._next
            try:
                frame = self._decode(index)
            except DataError as error:
                self._next = index + 1
                self.skipped.append(Skip(printable(self.records[index].name), str(error)))
                continue
            self._next = index + 1
            self._usable += 1
            yield frame
        if not self._usable:
            raise DataError(no_usable_frame(self.info.source, self.skipped))

    def state(self) -> dict[str, Any]:
        undecodable = self.skipped[len(self._left_out) :]
        return {
            "identity": self.identity(),
            "next": self._next,
            "usable": self._usable,
            "skipped": [[skip.name, skip.reason] for skip in undecodable],
        }

    def restore(self, state: dict[str, Any]) -> None:
        check_state(state, self)
        self.rewind()
        self._next = min(int(state["next"]), len(self))
        self._usable = int(state["usable"])
        self.skipped += [Skip(name, reason) for name, reason in state["skipped"]]

    def rewind(self) -> None:
        self._next = 0
        self._usable = 0
        self.skipped = list(self._left_out)

    def identity(self) -> str:
        if self._identity is None:
            digest = hashlib.blake2b(self.info.format.encode(), digest_size=16)
            for record in self.records:
                size = record.image.stat().st_size if record.image.exists() else -1
                pose = b"" if record.c2w_cv is None else record.c2w_cv.tobytes()
                name = printable(record.name)
                digest.update(f"{name}|{size}|{record.lens}|{record.time_s}|".encode())
                digest.update(pose)
            self._identity = digest.hexdigest()
        return self._identity

    def cameras(self) -> list[Camera | None]:
        """The camera of every frame, as the frame will carry it, from image headers alone.

        None where the source gives no camera or the header can't be read.
        """
        found: list[Camera | None] = []
        for index in range(len(self)):
            try:
                found.append(self._camera(index, self._size(index)))
            except DataError:
                found.append(None)
        return found

    def _size(self, index: int) -> tuple[int, int]:
        if index not in self._sizes:
            self._sizes[index] = image_size(self.records[index].image, self.options.max_pixels)
        return self._sizes[index]

    def _lens(self, index: int, size: tuple[int, int]) -> Lens | None:
        lens = self.records[index].lens
        try:
            return None if lens is None else lens.fitted(*size)
        except ValueError as error:
            raise DataError(f"{self.records[index].image}: {error}") from None

    def _camera(self, index: int, size: tuple[int, int]) -> Camera | None:
        lens, pose = self._lens(index, size), self.records[index].c2w_cv
        if lens is None or pose is None:
            return None
        try:
            return lens.camera(pose)
        except ValueError as error:
            raise DataError(f"{self.records[index].image}: {error}") from None

    def _decode(self, index: int) -> Frame:
        record, limit = self.records[index], self.options.max_pixels
        image = read_colour(
            record.image, self.options.background, orient=record.orient, max_pixels=limit
        )
        height, width = image.shape[:2]
        lens, camera = self._lens(index, (width, height)), self._camera(index, (width, height))
        depth = mask = None
        if record.depth is not None:
            depth = read_depth(
                record.depth, record.depth_unit, record.depth_unknown, max_pixels=limit
            )
        if record.mask is not None:
            mask = read_mask(record.mask, max_pixels=limit)
        planes = []
        for plane in (depth, mask):
            if plane is not None and plane.shape != (height, width):
                plane = resize_nearest(plane, width, height)
            planes.append(plane if plane is None or lens is None else rectify(lens, plane))
        if lens is not None:
            image = rectify(lens, image)
        name = printable(record.name)
        return Frame(index, name, image, camera, record.time_s, planes[0], planes[1])


def _unposed_lens(records: Sequence[FrameRecord]) -> Lens | None:
    """What is left of the first lens without a pose once its images are rectified."""
    lenses = (r.lens for r in records if r.lens is not None and r.c2w_cv is None)
    lens = next(lenses, None)
    return None if lens is None else lens.rectified()


def check_state(state: dict[str, Any], capture: Capture) -> None:
    """Raise DataError unless `state` is a cursor of this very capture."""
    if not isinstance(state, dict) or "identity" not in state:
        raise DataError("the cursor to restore holds no identity; it is not a capture's state")
    if state["identity"] != capture.identity():
        raise DataError(
            f"the cursor was taken from another capture than {capture.info.source}; restore it on "
            "the same, unchanged input"
        )


def no_usable_frame(source: str, skipped: Sequence[Skip]) -> str:
    """The sentence for a capture in which every frame was left out."""
    if not skipped:
        return f"{source} lists no frames; check that it is the right folder"
    return (
        f"{source} has no usable frame ({len(skipped)} skipped); the first, {skipped[0].name!r}: "
        f"{skipped[0].reason}"
    )
