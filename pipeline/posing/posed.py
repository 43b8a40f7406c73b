"""What finding a frame's camera comes to, and what every finder of cameras is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.datasets.lenses import Lens
from everview.pipeline.posing.trajectory_errors import Alignment, TrajectoryErrors


@dataclass(frozen=True, eq=False)
class Posed:
    """frame: with its camera, or as it came. problem: why it has no camera, in words; the frame
    must then not be used as if it had one."""

    frame: Frame
    problem: str | None = None


def without_pose(frame: Frame, lens: Lens | None) -> Camera | None:
    """The frame's intrinsics as a camera at the origin: its own camera's, or those of `lens` at its
    size; None where nothing tells them."""
    if frame.camera is not None:
        return frame.camera.moved(np.eye(4))
    if lens is None:
        return None
    height, width = frame.image.shape[:2]
    return lens.camera(np.eye(4)).resized(width, height)


class PoseFinder(Protocol):
    """Gives frames their cameras, in order; `to_facts` and `to_tensors` are its whole state.

    name: as `--poses` has it. alignment: by which its poses compare with known ones. errors:
    against the poses that the frames came with, if they did. counts: posed, lost, and its own.
    """

    name: str
    alignment: Alignment
    errors: TrajectoryErrors
    counts: Counter[str]

    def pose(self, frame: Frame) -> Posed:
        """The next frame of the stream with the camera that was found for it."""
        ...

    def points_world(self) -> np.ndarray | None:
        """Points that it has found, float32 [N, 3] in the world of its poses, for the gauge; None
        where something else tells the scale."""
        ...

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot, JSON-compatible."""
        ...

    def to_tensors(self) -> dict[str, Tensor]:
        """For a snapshot."""
        ...

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from `to_facts` and `to_tensors`. Raises ValueError when they don't fit."""
        ...
