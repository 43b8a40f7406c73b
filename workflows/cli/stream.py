"""`everview stream CAPTURE`: frames in, a reconstruction out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from everview.pipeline.streaming.config import StreamConfig
from everview.workflows.cli.arguments import CaptureArgument, CommonFlags, part_of
from everview.workflows.cli.outcome import Outcome
from everview.workflows.cli.progress import showing_progress
from everview.workflows.cli.view_flags import ViewFlags, beside_session


@dataclass(frozen=True, kw_only=True)
class StreamFlags(CommonFlags, ViewFlags):
    """What verbs that stream understand besides their configuration."""


@dataclass(frozen=True, kw_only=True)
class Arguments(StreamFlags, StreamConfig):
    """Absorb a capture chunk by chunk and leave views, video, depth, points, mesh and a report.

    The same command again continues an unfinished run from its last snapshot. Ctrl-C once ends the
    stream early and exports what has been seen; twice stops at once.

    With --watch the capture is a folder that is still being written: frames are taken as they come,
    in the order in which its transforms.json or frames.jsonl lists them, until a file `stream.end`
    is there or nothing has come for --idle-s.

    With --view a page in a browser looks into the memory while it learns, from anywhere and at any
    time it has covered; afterwards `everview view RUN` does the same.
    """

    capture: CaptureArgument
    """folder, transforms.json, opencv_cameras.json, video or procedural:// URL, with poses"""


def run(arguments: Arguments) -> Outcome:
    return streamed(arguments, part_of(arguments, StreamConfig))


def streamed(arguments: StreamFlags, config: StreamConfig) -> Outcome:
    """Do the job that a verb's arguments come to."""
    from everview.pipeline.runs import default_run_path
    from everview.pipeline.streaming.stream import stream_capture

    out = arguments.out or default_run_path("stream", subject_of(config.capture), config)
    with showing_progress(arguments.quiet) as progress:
        beside = partial(beside_session, arguments, config.size, progress)
        done = stream_capture(config, out, fresh=arguments.fresh, progress=progress, beside=beside)
    return Outcome({"metrics": done.metrics}, done.table, done.run, done.exit_status)


def subject_of(capture: str) -> str:
    """What a run's folder is called after: the last part of a path or URL, without a login."""
    place = capture.partition("?")[0]
    return Path(place.rpartition("@")[2] if "://" in place else place).name
