"""What a session does with frames and updates, as values: chunking, the write gate, the probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from everview.pipeline.errors import UsageError

if TYPE_CHECKING:  # a command line is parsed with this module, and torch takes seconds to import
    from torch import Tensor

    from everview.datasets.captures import Frame

ACCEPTED = "accepted"


@dataclass(frozen=True)
class WriteGate:
    """Keeps out what would spoil the memory. A verdict is `accepted` or the reason in words.

    darkest: a frame whose brightest pixel is below this (0 to 255) shows nothing: a closed lens or
    a decoder that lost its reference.
    """

    darkest: int = 8

    def judge_frame(
        self, frame: Frame, size: tuple[int, int] | None, previous: Frame | None
    ) -> str:
        """Verdict on a frame that has been resized.

        size: width and height of the session's frames so far. previous: the last accepted frame.
        """
        if frame.camera is None:
            return "no camera"
        if size is not None and (frame.camera.width, frame.camera.height) != size:
            return f"size changed to {frame.camera.width}x{frame.camera.height}"
        if int(frame.image.max()) < self.darkest:
            return "black"
        if previous is not None and _is_repeat(frame, previous):
            return "repeat of the frame before"
        return ACCEPTED

    def judge_state(self, tensors: dict[str, Tensor]) -> str:
        """Verdict on the state after a chunk; a state that is not finite is never published."""
        for name, tensor in tensors.items():
            # NaN means "unknown" in clocks and times; weights, momentum, norms have no unknowns
            if not name.startswith("layers.") or not tensor.is_floating_point():
                continue
            if not tensor.isfinite().all():
                return f"{name} is not finite"
        return ACCEPTED


@dataclass(frozen=True)
class StreamPolicies:
    """How a session runs. Recorded in `run.json`; the same policies repeat the run.

    chunk_frames: frames absorbed by one update. retention_views: frames of the first chunk that
    are rendered again after every later chunk, to see what is forgotten (0: none). has_residual:
    render one frame of each chunk before learning it (prequential PSNR). snapshot_every_s: seconds
    between snapshots (0: after every chunk); one is always taken at the end.
    """

    chunk_frames: int = 8
    retention_views: int = 2
    has_residual: bool = True
    snapshot_every_s: float = 20.0
    gate: WriteGate = WriteGate()

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise UsageError(f"chunk_frames {self.chunk_frames}: a chunk has at least one frame")


def _is_repeat(frame: Frame, previous: Frame) -> bool:
    """The same picture from the same place: a frozen source. Time passing adds nothing to it."""
    same_place = np.array_equal(frame.camera.c2w_cv, previous.camera.c2w_cv)
    return same_place and np.array_equal(frame.image, previous.image)
