"""`everview report RUN`: the page of a run, written again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from everview.workflows.cli.arguments import CommonFlags, RunArgument
from everview.workflows.cli.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags):
    """Write the self-contained HTML report of a run, by default as RUN/report.html.

    Any run has one: a stream, a rendering, an evaluation, a training, finished or not. With --out,
    the page goes to that file or directory.
    """

    run: RunArgument
    """run directory of any verb"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.report import report_run

    page = report_run(arguments.run, arguments.out)
    return Outcome({"report": str(page)}, f"report: {page}", run=Path(arguments.run))
