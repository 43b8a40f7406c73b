"""`everview export RUN`: a streamed scene for nerfstudio, COLMAP, MeshLab and rerun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everview.pipeline.exporting.config import ExportConfig
from everview.workflows.cli.arguments import CommonFlags, RunArgument, part_of
from everview.workflows.cli.outcome import Outcome, table
from everview.workflows.cli.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags, ExportConfig):
    """Write a streamed scene for other tools, each format in a folder of its own.

    Cameras are those that the stream used, given or found; pictures are undistorted, as streamed,
    and read again from the source. What a live stream showed is gone, but for the keyframes of its
    geometry: those are written, and what is missing is said.
    """

    run: RunArgument
    """run directory of `everview stream` or `everview serve --ingest`"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.exporting.run import export_run
    from everview.pipeline.runs import default_run_path

    config = part_of(arguments, ExportConfig)
    out = arguments.out or default_run_path("export", Path(config.run).resolve().name, config)
    with showing_progress(arguments.quiet) as progress:
        done = export_run(config, out, fresh=arguments.fresh, progress=progress)
    shown = [table([(name, _line(told)) for name, told in done.written.items()])]
    shown += [f"missing: {note}" for note in done.notes]
    result = {"written": done.written, "missing": list(done.notes)}
    return Outcome(result, "\n".join(shown), done.run)


def _line(told: Mapping[str, Any]) -> str:
    """What a format's folder holds, in a few words."""
    counts = [f"{value} {name.replace('_', ' ')}" for name, value in told.items()
              if isinstance(value, int) and value]  # fmt: skip
    return ", ".join(counts)
