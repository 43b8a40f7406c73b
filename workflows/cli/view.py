"""`everview view RUN`: a page that looks into a streamed scene."""

from __future__ import annotations

from dataclasses import dataclass

from everview.pipeline.errors import UsageError
from everview.pipeline.viewing.config import ViewConfig
from everview.workflows.cli.arguments import CommonFlags, RunArgument, part_of
from everview.workflows.cli.outcome import Outcome
from everview.workflows.cli.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags, ViewConfig):
    """Serve a page that looks into the scene of a run from anywhere, at any time it covered.

    The memory is drawn at the visitor's camera, coarse while it moves and full when it rests,
    beside the cameras it has seen, points, mesh, held-out comparisons and charts. Ctrl-C ends.
    Nothing is written. The page is on loopback; the printed line brings it to another machine.
    """

    run: RunArgument
    """run directory of `everview stream`, finished or interrupted"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.viewing.view import view_run

    if arguments.out is not None:
        raise UsageError("`everview view` writes nothing: leave --out away")
    with showing_progress(arguments.quiet) as progress:
        looked_at = view_run(part_of(arguments, ViewConfig), progress)
    return Outcome(run=looked_at)
