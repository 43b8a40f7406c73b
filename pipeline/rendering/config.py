"""What `everview render` can be told; the resolved value in `run.json` repeats the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everview.pipeline.errors import UsageError


@dataclass(frozen=True)
class RenderConfig:
    """What `everview render` can be told. Raises UsageError with the value and the limit."""

    run: str
    """a run directory of `everview stream`"""
    path: str = "auto"
    """orbit, spiral, interpolate, still (the middle camera), auto, or a file of cameras
    (transforms.json or TUM)"""
    frames: int = 96
    """pictures along the path (a file has its own number)"""
    size: int | None = None
    """short side in pixels, default the size that was streamed"""
    time: float | Literal["sweep"] | None = None
    """the moment that is looked at, seconds on the capture's clock; sweep: from the first moment of
    the stream to the last; default: the path's own, which are the frames' when it interpolates"""
    rate: float = 24.0
    """frames per second of the video"""
    stills: int = 12
    """pictures also written as PNG, with their depth"""
    weights: str | None = None
    """where the weights are now, if not where the stream found them"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise UsageError(f"frames {self.frames}: at least 1")
        if self.size is not None and not 16 <= self.size <= 2048:
            raise UsageError(f"size {self.size}: 16 to 2048 pixels")
        if not 0 < self.rate <= 240:
            raise UsageError(f"rate {self.rate}: more than 0 and at most 240 frames per second")
