"""`open_source`: what the user named to the source that it is."""

from __future__ import annotations

from pathlib import Path

from everview.datasets.opening import open_capture
from everview.pipeline.streaming.config import StreamConfig
from everview.pipeline.streaming.sources.captured import CapturedSource
from everview.pipeline.streaming.sources.folder import FolderSource
from everview.pipeline.streaming.sources.ingest import IngestSource
from everview.pipeline.streaming.sources.source import Source


def open_source(config: StreamConfig) -> Source:
    """The source that `config.capture` names. Raises DataError when nothing usable is there."""
    if config.capture.startswith("ingest://"):
        return IngestSource(config.capture, config)
    if config.watch:
        return FolderSource(Path(config.capture), config)
    return CapturedSource(open_capture(config.capture))
