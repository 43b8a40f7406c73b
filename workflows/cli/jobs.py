"""`everview jobs list|status|logs|stop`: the jobs of a Ray cluster."""

from __future__ import annotations

import datetime
import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from everview.pipeline.errors import UsageError
from everview.workflows.cli.arguments import Switch
from everview.workflows.cli.cluster_flags import ClusterFlags
from everview.workflows.cli.outcome import Outcome, table
from everview.workflows.cli.submit import ending, followed


@dataclass(frozen=True, kw_only=True)
class Arguments(ClusterFlags):
    """See and stop the jobs of a Ray cluster: list, status ID, logs ID, stop ID.

    `status` exits with the job's own exit code once it has ended; `logs --follow` too.
    """

    what: Annotated[Literal["list", "status", "logs", "stop"], tyro.conf.Positional] = "list"
    """list: all jobs; status, logs, stop: of one"""
    id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ID")] = ""
    """the job's id, as `submit` and `list` say it"""
    follow: Switch = False
    """of logs: go on until the job ends"""


def run(arguments: Arguments) -> Outcome:
    if (arguments.what == "list") == bool(arguments.id):
        raise UsageError(
            "`jobs list` takes no ID"
            if arguments.id
            else f"which job? `everview jobs {arguments.what} ID`; `everview jobs list` has them"
        )
    if arguments.follow and arguments.what != "logs":
        raise UsageError("--follow is a flag of `everview jobs logs ID`")
    jobs = arguments.connect()
    if arguments.what == "list":
        found = jobs.list()
        rows = [(job.id, job.status, _when(job.started_at), job.entrypoint) for job in found]
        text = table(rows, ("id", "status", "started", "entry point")) if rows else "no jobs"
        return Outcome({"jobs": [asdict(job) for job in found]}, text)
    if arguments.what == "logs":
        if arguments.follow:
            return followed(jobs, arguments.id, {"submission_id": arguments.id})
        jobs.find(arguments.id)
        sys.stdout.write(jobs.logs(arguments.id))
        return Outcome({"submission_id": arguments.id})
    if arguments.what == "stop":
        job = jobs.find(arguments.id)
        if job.has_ended:
            return Outcome(asdict(job), f"job {job.id} has ended already: {job.status.lower()}")
        jobs.stop(job.id)
        return Outcome({"submission_id": job.id, "status": "STOPPING"}, f"job {job.id} is stopped")
    job = jobs.find(arguments.id)
    text = ending(job) if job.has_ended else f"job {job.id} is {job.status.lower()}"
    return Outcome(asdict(job), text, exit_code=job.exit_status() if job.has_ended else 0)


def _when(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
