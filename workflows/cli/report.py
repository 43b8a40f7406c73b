"""`everview report RUN`: the page of a run, written again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everview.workflows.cli.arguments import CommonFlags, RunArgument
from everview.workflows.cli.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags):
    """Write the self-contained HTML report of a run, by default as RUN/report.html.

    Any run has one: a stream, a rendering, an evaluation, a training, finished or not. With --out,
    the page goes to that file or directory. Of a stream it is also said whether its run directory
    is complete: every file is opened, and what is counted twice is compared.
    """

    run: RunArgument
    """run directory of any verb"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.report import report_run
    from everview.pipeline.runs import read_run
    from everview.pipeline.streaming.completeness import VERB, shortcomings

    path = Path(arguments.run)
    page = report_run(path, arguments.out)
    result: dict[str, Any] = {"report": str(page)}
    lines = [f"report: {page}"]
    if (read_run(path) or {}).get("verb") == VERB:
        lacks = shortcomings(path)
        result["lacks"] = lacks
        lines += [f"not complete: {sentence}" for sentence in lacks] or ["complete"]
    return Outcome(result, "\n".join(lines), run=path)
