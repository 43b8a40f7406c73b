"""The frames of one capture as the protocols look at them: square, at one size, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from everview.datasets.captures import Capture, CaptureInfo, Frame, Skip
from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from everview.datasets.resampling import fit_frame
from everview.pipeline.evaluation.floors import WARP_OVERSAMPLING

# Judging needs all frames at hand; 128 px frames of this many take about 1 GiB with depth.
MAX_FRAMES = 2000


@dataclass(frozen=True, eq=False)
class SceneFrames:
    """Posed frames of one capture, in order.

    frames: `size` x `size`. large: the same at WARP_OVERSAMPLING times the size, for the floor
    that warps by true depth; empty when the capture has no depth. skipped: what was left out.
    """

    name: str
    info: CaptureInfo
    identity: str
    frames: tuple[Frame, ...]
    large: tuple[Frame, ...]
    skipped: tuple[Skip, ...]

    @property
    def poses(self) -> np.ndarray:
        """Camera-to-world of every frame, float64 [N, 4, 4], OpenCV axes."""
        return np.stack([frame.camera.c2w_cv for frame in self.frames if frame.camera])


def open_posed(source: str) -> Capture:
    """Open a capture, nothing decoded yet. Raises DataError when it has no cameras."""
    capture = open_capture(source)
    if not capture.info.has_cameras:
        raise DataError(f"{source} states no cameras; pictures can only be judged at known poses")
    return capture


def load_scene(source: str, name: str, size: int) -> SceneFrames:
    """Read a capture whole at `size` px.

    Raises DataError when it has no cameras, fewer than two frames, or more than MAX_FRAMES.
    """
    capture = open_posed(source)
    frames: list[Frame] = []
    large: list[Frame] = []
    unposed: list[Skip] = []
    for frame in capture:
        if frame.camera is None:
            unposed.append(Skip(frame.name, "has no camera"))
            continue
        if len(frames) == MAX_FRAMES:
            raise DataError(
                f"{source} has more than {MAX_FRAMES} frames; evaluate a part of it, or `stream` it"
            )
        if frame.depth is not None:
            large.append(fit_frame(frame, size * WARP_OVERSAMPLING, square=True))
        frames.append(fit_frame(frame, size, square=True))
    if len(frames) < 2:
        raise DataError(f"{source} has {len(frames)} usable frame; at least 2 are needed to judge")
    return SceneFrames(
        name=name,
        info=capture.info,
        identity=capture.identity(),
        frames=tuple(frames),
        large=tuple(large) if len(large) == len(frames) else (),
        skipped=(*capture.skipped, *unposed),
    )
