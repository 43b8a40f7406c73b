"""`everview evaluate`: held-out views of a capture, a protocol or shards, beside the floors."""

from __future__ import annotations

from dataclasses import dataclass

from everview.pipeline.evaluation.config import EvaluationConfig
from everview.workflows.cli.arguments import CommonFlags, part_of
from everview.workflows.cli.outcome import Outcome
from everview.workflows.cli.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags, EvaluationConfig):
    """Measure held-out views of --capture CAPTURE, or of scenes of --protocol NAME or --shards SET.

    The table has the model, its memory alone and the floors (mean colour, nearest view, depth
    warp), all by the same rules. A scene that fails is named and the others go on (exit code 1).
    """

    workers: int = 1
    """processes that share the scenes of a protocol or set, of this machine or a cluster; the
    numbers are the same, and 1 is this process alone"""
    address: str = ""
    """HOST:PORT of the head of a running Ray cluster for the workers, or `auto`; default
    RAY_ADDRESS (in a job its cluster), else this machine"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.cluster import ClusterConfig
    from everview.pipeline.evaluation.run import evaluate

    config = part_of(arguments, EvaluationConfig)
    with showing_progress(arguments.quiet) as progress:
        done = evaluate(
            config,
            arguments.out,
            arguments.fresh,
            progress=progress,
            workers=arguments.workers,
            where=ClusterConfig(address=arguments.address),
        )
    result = {"metrics": done.metrics, "failed": done.failed}
    return Outcome(result, done.table, run=done.run, exit_code=done.exit_code)
