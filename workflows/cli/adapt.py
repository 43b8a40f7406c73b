"""`everview adapt CAPTURE|RUN`: weights for one capture, learned from its own inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everview.pipeline.adapting.config import AdaptConfig
from everview.workflows.cli.arguments import CaptureArgument, CommonFlags, part_of
from everview.workflows.cli.outcome import Outcome
from everview.workflows.cli.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags, AdaptConfig):
    """Tune the slow weights to a capture, or to that of a run of `stream`, for --seconds.

    Only its inputs are learned from; some are kept back and say when to stop, and whether the
    weights that came out should be used at all. Held-out frames are judged before and after. Use
    what comes out with `stream CAPTURE --weights DIR/weights`.
    """

    capture: CaptureArgument
    """a folder, a file or a procedural:// URL; or a run directory of `everview stream`"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.adapting.run import adapt_capture
    from everview.pipeline.runs import default_run_path

    config = part_of(arguments, AdaptConfig)
    subject = Path(config.capture.partition("?")[0]).name
    out = arguments.out or default_run_path("adapt", subject, config)
    with showing_progress(arguments.quiet) as progress:
        done = adapt_capture(config, out, fresh=arguments.fresh, progress=progress)
    result = {"metrics": done.metrics, "weights": done.weights}
    return Outcome(result, done.table, run=done.run, exit_code=done.exit_status)
