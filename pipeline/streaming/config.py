"""What `everview stream` can be told; the resolved value in `run.json` repeats the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from everview.models.weights import DEFAULT_WEIGHTS
from everview.pipeline.errors import UsageError
from everview.pipeline.streaming.policies import StreamPolicies


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How frames are waited for. Raises UsageError with the value, the limit and the reason."""

    watch: bool = False
    """the capture is a folder that is still being written"""
    idle_s: float = 60.0
    """seconds without anything new after which a watched folder or a live source has ended"""
    patience_s: float = 5.0
    """seconds that a file, or a frame's camera, is waited for once later ones are there"""
    queue_frames: int = 8
    """frames that wait for the model at most"""
    cameras: str | None = None
    """file of camera lines for a live video, which may still be growing"""

    def __post_init__(self) -> None:
        for name in ("idle_s", "patience_s"):
            if not 0 < getattr(self, name) <= 7 * 86400:
                raise UsageError(f"{name} {getattr(self, name)}: above 0 and at most a week")
        if not 1 <= self.queue_frames <= 256:
            raise UsageError(f"queue_frames {self.queue_frames}: 1 to 256")


@dataclass(frozen=True)
class StreamConfig(SourceOptions):
    """Raises UsageError with the value, the limit and the reason."""

    capture: str
    """a folder, a file, a procedural:// URL, or a live source: rtsp://, tcp://, v4l2://, ingest://"""
    weights: str = DEFAULT_WEIGHTS
    """published name, folder, or URL#hash"""
    size: int = 128
    """short side of the frames the model sees, pixels"""
    hold_out: int = 8
    """keep every n-th frame from the model and compare with it (0: none)"""
    poses: Literal["given", "sfm", "odometry", "learned"] = "given"
    """sfm: from the pictures of a complete capture (pycolmap; a scale of its own). odometry: from
    depth and picture as frames come (Open3D). learned: from pictures as they come, matched by a
    network (a scale of its own). Poses that are given then only measure those found"""
    max_frames: int | None = None
    """stop after this many frames"""
    policies: StreamPolicies = field(default_factory=StreamPolicies)
    path: str = "auto"
    """camera path of novel_views.mp4: auto, orbit, spiral, interpolate, or a file of cameras"""
    video_frames: int = 72
    """length of novel_views.mp4"""
    video_rate: float = 24.0
    """its frames per second"""
    review_views: int = 16
    """held-out frames shown in views/ and depth/ (all of them are measured)"""
    measured_views: int = 256
    """held-out frames measured at most, evenly taken"""
    fusion_views: int = 48
    """frames that points.ply and mesh.ply are fused from at most, spread over where the stream has
    been; twice as many where depth was captured (0: no geometry)"""
    fusion_per_chunk: int = 4
    """frames of a chunk that are fused at most"""
    fusion_masks_moving: bool = True
    """leave out of the geometry what the memory was sure of and did not find in the frame. Of
    frames that have a time, only those drawn before they were learned are fused then, as many as
    policies.prequential.views; frames without a time show a still scene"""
    measured_depths: int = 64
    """frames whose depth, as the sensor gave it, mesh.ply is measured against (0: none)"""
    mesh: bool = True
    """make mesh.ply (needs the extra `geometry`)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 16:
            raise UsageError(f"size {self.size}: at least 16 pixels, two patches")
        if self.hold_out < 0 or self.hold_out == 1:
            raise UsageError(f"hold_out {self.hold_out}: 0 for none, or at least 2")
        for name in ("video_frames", "review_views", "measured_views"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: at least 1")
        for name, least in (("fusion_views", 0), ("measured_depths", 0), ("fusion_per_chunk", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} {getattr(self, name)}: at least {least}")
        if self.max_frames is not None and self.max_frames < 1:
            raise UsageError(f"max_frames {self.max_frames}: at least 1")
