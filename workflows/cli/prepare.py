"""`everview prepare`: captures, videos and meshes into verified shards that training reads."""

from __future__ import annotations

from dataclasses import dataclass

from everview.pipeline.preparing.config import PrepareConfig
from everview.workflows.cli.arguments import CommonFlags, part_of
from everview.workflows.cli.outcome import Outcome
from everview.workflows.cli.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Arguments(CommonFlags, PrepareConfig):
    """Make shards of captures, videos, COLMAP scenes, meshes, and folders of them.

    The set lies in --out (or at --to) under manifest.json, and `train --data.shards` reads it. The
    same command again goes on where it was cut: shards that are there and verify are kept. A
    source that fails is named and the others go on (exit code 1).
    """

    workers: int | None = None
    """processes, of this machine or the cluster of RAY_ADDRESS; all usable cores unless given"""


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.preparing.run import prepare

    config = part_of(arguments, PrepareConfig)
    with showing_progress(arguments.quiet) as progress:
        done = prepare(
            config,
            arguments.out,
            arguments.fresh,
            progress=progress,
            workers=arguments.workers,
        )
    return Outcome(done.facts, done.text, run=done.run, exit_code=done.exit_code)
