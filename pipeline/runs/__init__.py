"""Run directories: created, continued or refused; locked, atomic, and enough to repeat the run."""

from everview.pipeline.runs.atomic import (
    disk_errors,
    replacing,
    write_bytes,
    write_json,
    write_text,
)
from everview.pipeline.runs.directory import RunDirectory, default_run_path, read_run
from everview.pipeline.runs.frames import FrameLog, read_frames, write_frames
from everview.pipeline.runs.metrics import (
    METRIC_KEYS,
    TRAIN_KEYS,
    complete_metrics,
    read_metrics,
    write_metrics,
)
from everview.pipeline.runs.plain import as_plain, redact, redact_command
from everview.pipeline.runs.provenance import (
    code_identity,
    describe_device,
    describe_host,
    library_versions,
    peak_rss_mib,
)

__all__ = [
    "METRIC_KEYS",
    "TRAIN_KEYS",
    "FrameLog",
    "RunDirectory",
    "as_plain",
    "code_identity",
    "complete_metrics",
    "default_run_path",
    "describe_device",
    "describe_host",
    "disk_errors",
    "library_versions",
    "peak_rss_mib",
    "read_frames",
    "read_metrics",
    "read_run",
    "redact",
    "redact_command",
    "replacing",
    "write_bytes",
    "write_frames",
    "write_json",
    "write_metrics",
    "write_text",
]
