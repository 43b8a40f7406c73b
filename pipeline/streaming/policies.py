"""What a session does with frames and updates, as values; recorded in `run.json`."""

from __future__ import annotations

from dataclasses import dataclass, field

from everview.pipeline.errors import UsageError
from everview.pipeline.streaming.boundaries import Boundaries
from everview.pipeline.streaming.commit import Commit
from everview.pipeline.streaming.gate.thresholds import GateThresholds
from everview.pipeline.streaming.replay import Replay
from everview.pipeline.streaming.segments.policy import Segments
from everview.pipeline.streaming.surprise import Surprise


@dataclass(frozen=True)
class Order:
    """What is done about frames that come twice, out of order, or not at all. Raises UsageError."""

    window: int = 8
    """arrivals held back at most while a number before them is missing: a sender whose order is off
    by up to this many places changes nothing, and a lost frame delays the others by this many"""
    time_gap_s: float = 1.0
    """seconds between two time stamps that are an event, unless four times the usual is more"""

    def __post_init__(self) -> None:
        if not 0 <= self.window <= 1024:
            raise UsageError(f"window {self.window}: 0 to 1024 frames")
        if not self.time_gap_s > 0:
            raise UsageError(f"time_gap_s {self.time_gap_s}: above 0")


@dataclass(frozen=True)
class Prequential:
    """Every chunk is predicted before it is learned, and the prediction scored."""

    views: int = 1
    """frames of each chunk that are drawn, evenly taken, with and without the frame bank (0: none).
    Timed by hand on a CPU, one of 128 px took 0.44 of the update by a chunk of eight"""

    def __post_init__(self) -> None:
        if not 0 <= self.views <= 64:
            raise UsageError(f"views {self.views}: 0 to 64 frames of a chunk")


@dataclass(frozen=True)
class StreamPolicies:
    """How a session runs; the same policies repeat the run. Raises UsageError."""

    chunk_frames: int = 8
    """frames absorbed by one update at most (0: as many as `boundaries.tokens` allow)"""
    boundaries: Boundaries = field(default_factory=Boundaries)
    retention_views: int = 2
    """frames of the first chunk that are rendered again after every later one, to see what is
    forgotten (0: none)"""
    snapshot_every_s: float = 20.0
    """seconds between snapshots (0: after every frame); one is always taken at the end"""
    order: Order = field(default_factory=Order)
    prequential: Prequential = field(default_factory=Prequential)
    gate: GateThresholds = field(default_factory=GateThresholds)
    segments: Segments = field(default_factory=Segments)
    commit: Commit = field(default_factory=Commit)
    surprise: Surprise = field(default_factory=Surprise)
    replay: Replay = field(default_factory=Replay)

    def __post_init__(self) -> None:
        if self.chunk_frames < (0 if self.boundaries.tokens else 1):
            raise UsageError(
                f"chunk_frames {self.chunk_frames}: a chunk has at least one frame (0 leaves its "
                "size to boundaries.tokens, a budget that must then be given)"
            )
        if self.surprise.is_on and not self.prequential.views:
            raise UsageError(
                f"surprise of {self.surprise.of} with prequential views 0: surprise is how wrong "
                "predictions were; predict at least 1 frame of a chunk"
            )
        if self.replay.frames and self.replay.tolerated_db is not None and not self.retention_views:
            raise UsageError(
                f"replay at a drift of {self.replay.tolerated_db} dB with retention_views 0: "
                "nothing measures it; draw at least 1 view, or replay by chunks"
            )
