"""What a writer needs to know of one frame."""

from __future__ import annotations

from dataclasses import dataclass

from everview.datasets.cameras import Camera


@dataclass(frozen=True, eq=False)
class PosedImage:
    """An image file and its camera. Paths are relative to the file that will list them.

    time_s: seconds. depth: a 16-bit file in millimetres. mask: black means ignore.
    """

    name: str
    camera: Camera
    time_s: float | None = None
    depth: str | None = None
    mask: str | None = None
