"""What `everview export` can be told; the resolved value in `run.json` repeats it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everview.pipeline.errors import UsageError

Format = Literal["nerfstudio", "colmap", "meshlab", "rerun"]


@dataclass(frozen=True)
class ExportConfig:
    """Raises UsageError with the value and the limit."""

    run: str
    """a run directory of `everview stream` or `everview serve --ingest`"""
    format: tuple[Format, ...] = ("nerfstudio",)
    """nerfstudio: transforms.json, images, depth, points. colmap: a text model, images, points.
    meshlab: mesh and points with normals, a project. rerun: a recording over time (the extra
    `rerun`)"""
    frames: int = 1000
    """frames at most, evenly taken"""
    size: int | None = None
    """short side of the pictures, pixels; default as streamed. Other sizes need the source again"""
    capture: str | None = None
    """where the source is now, if not where the stream found it"""

    def __post_init__(self) -> None:
        if not self.format:
            raise UsageError("--format: name at least one of nerfstudio, colmap, meshlab, rerun")
        if self.frames < 1:
            raise UsageError(f"frames {self.frames}: at least 1")
        if self.size is not None and not 16 <= self.size <= 8192:
            raise UsageError(f"size {self.size}: 16 to 8192 pixels")
