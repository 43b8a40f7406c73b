"""Frames on disk for other tools: PNG as streamed, depth in 16 bits, one file each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.datasets.writers.posed_image import PosedImage
from everview.pipeline.exporting.streamed_run import finite_depth
from everview.pipeline.rendering.stills import write_image

_MILLI = 1000.0
_MOST = 65_534  # 65535 stands for unknown in some tools


@dataclass(frozen=True)
class Stored:
    """A frame that was written: its name under images/, and under depth/ if it has any."""

    index: int
    name: str
    camera: Camera
    time_s: float | None
    has_depth: bool

    def beside_images(self) -> PosedImage:
        """As a file beside images/ and depth/ lists it."""
        depth = f"depth/{self.name}" if self.has_depth else None
        return PosedImage(f"images/{self.name}", self.camera, self.time_s, depth)

    def in_images(self) -> PosedImage:
        """As a file lists it whose names begin in images/."""
        return PosedImage(self.name, self.camera, self.time_s)


def store_frame(folder: Path, frame: Frame, with_depth: bool) -> Stored:
    """Write folder/images/INDEX.png and, if asked for and there, folder/depth/INDEX.png.

    Depth is in thousandths of the world's unit, millimetres where that is metric; 0 where it is
    unknown or more than 16 bits hold.
    """
    name = f"{frame.index:06d}.png"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    write_image(folder / "images" / name, frame.image)
    has_depth = with_depth and frame.depth is not None and bool((frame.depth > 0).any())
    if has_depth and frame.depth is not None:
        counts = np.round(finite_depth(frame.depth) * _MILLI)
        counts[(counts < 0) | (counts > _MOST)] = 0
        (folder / "depth").mkdir(exist_ok=True)
        Image.fromarray(counts.astype(np.uint16)).save(folder / "depth" / name)
    assert frame.camera is not None
    return Stored(frame.index, name, frame.camera, frame.time_s, has_depth)
