"""`everview render RUN`: pictures and a video from cameras nobody gave it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everview.pipeline.rendering.config import RenderConfig
from everview.workflows.cli.arguments import CommonFlags, RunArgument, part_of
from everview.workflows.cli.outcome import Outcome
from everview.workflows.cli.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags, RenderConfig):
    """Render novel views of a streamed scene: a path of cameras, as stills and an H.264 video."""

    run: RunArgument
    """run directory of `everview stream`"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.rendering.render import render_run
    from everview.pipeline.runs import default_run_path

    config = part_of(arguments, RenderConfig)
    subject = f"{Path(config.run).resolve().name}-{Path(config.path).stem}"
    out = arguments.out or default_run_path("render", subject, config)
    with showing_progress(arguments.quiet) as progress:
        done = render_run(config, out, fresh=arguments.fresh, progress=progress)
    return Outcome({"metrics": done.metrics}, run=done.run)
