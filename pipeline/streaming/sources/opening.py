"""`open_source`: what the user named to the source that it is."""

from __future__ import annotations

from pathlib import Path

from everview.datasets.opening import open_capture
from everview.pipeline.errors import UsageError
from everview.pipeline.posing.sfm_source import SfmSource
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.sources.captured import CapturedSource
from everview.pipeline.streaming.sources.folder import FolderSource
from everview.pipeline.streaming.sources.ingest import IngestSource
from everview.pipeline.streaming.sources.live_video import SCHEMES, LiveVideoSource
from everview.pipeline.streaming.sources.source import Source


def open_source(config: StreamConfig) -> Source:
    """The source that `config.capture` names. Raises DataError when nothing usable is there."""
    scheme, has_scheme, _ = config.capture.partition("://")
    is_live = config.watch or (bool(has_scheme) and scheme in (*SCHEMES, "ingest"))
    if is_live and config.poses == "sfm":
        raise UsageError("--poses sfm needs all frames at once: a capture that is complete")
    if has_scheme and scheme in SCHEMES:
        return LiveVideoSource(config.capture, config)
    if config.cameras is not None:
        raise UsageError("--cameras goes with a live video (rtsp://, tcp://, v4l2://)")
    if scheme == "ingest" and has_scheme:
        return IngestSource(config.capture, config)
    if config.watch:
        return FolderSource(Path(config.capture), config)
    capture = open_capture(config.capture)
    return SfmSource(capture) if config.poses == "sfm" else CapturedSource(capture)
