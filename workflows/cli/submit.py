"""`everview submit VERB ...`: the same command as a job on a Ray cluster."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from everview.pipeline.errors import UsageError
from everview.workflows.cli.arguments import Switch, parse
from everview.workflows.cli.cluster_flags import ClusterFlags
from everview.workflows.cli.outcome import Outcome

if TYPE_CHECKING:
    from everview.pipeline.cluster.jobs import Job, JobRequest, Jobs

_PROGRAM = ("python", "-m", "everview.workflows.cli")
_STAYS_HERE = ("submit", "jobs")


@dataclass(frozen=True, kw_only=True)
class Arguments(ClusterFlags):
    """Run a verb as a job on a Ray cluster: everview submit [flags] VERB [its flags].

    The flags are those of `ray job submit`, and the line for it is printed. The cluster gets the
    code that runs here, as an unpacked wheel. Logs are streamed, and the exit code is the verb's.
    Ctrl-C leaves the job running. Paths in the verb's flags are paths on the cluster. A cluster
    that asks nobody for a token is refused.
    """

    submission_id: str | None = None
    """name of the job; made up by the cluster unless given"""
    no_wait: Switch = False
    """don't stream logs and wait for the end"""
    metadata_json: str = "{}"
    """JSON object of strings to keep with the job"""
    runtime_env_json: str = "{}"
    """JSON object, Ray's runtime environment (env_vars, ...); the code is added to it"""
    working_dir: str | None = None
    """folder or URL of files that the job runs in"""
    entrypoint_num_cpus: float | None = None
    """CPUs to reserve for the verb's own process, beside its workers'"""
    entrypoint_num_gpus: float | None = None
    """GPUs to reserve for it"""
    entrypoint_memory: int | None = None
    """bytes of memory to reserve for it"""
    entrypoint_resources: str = "{}"
    """JSON object of custom resources to reserve for it"""
    wheel: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """wheel to ship instead of one of the code that runs here"""
    words: tyro.conf.Suppress[tuple[str, ...]] = ()


def parse_words(words: Sequence[str], prog: str) -> Arguments:
    """Flags up to the verb are ours, the rest is its own, checked here before anything is sent."""
    mine, theirs = _split(words)
    arguments = parse(Arguments, mine, f"{prog} [flags] VERB")
    if arguments.out is not None or arguments.fresh:
        raise UsageError("--out and --fresh belong to the verb: `everview submit VERB --out DIR`")
    if not theirs:
        raise UsageError("the verb to submit is missing: `everview submit train tiny ...`")
    _check(theirs)
    return replace(arguments, words=tuple(theirs))


def run(arguments: Arguments) -> Outcome:
    from everview.pipeline.cluster.jobs import dashboard_address
    from everview.pipeline.cluster.shipping import shipped_code

    request = job_request(arguments, shipped_py_modules=())  # refuse flags before building
    jobs = arguments.connect()
    code = shipped_code(arguments.wheel)
    request = job_request(arguments, shipped_py_modules=code.py_modules)
    line = ray_command(request, dashboard_address(arguments.address), arguments)
    print(f"the same by hand: {line}", file=sys.stderr)
    job_id = jobs.submit(request)
    stop = f"everview jobs stop {job_id} --address {jobs.address}"
    print(f"job {job_id} submitted to {jobs.address}; to stop it: {stop}", file=sys.stderr)
    facts = {"submission_id": job_id, "address": jobs.address, "ray_command": line}
    if arguments.no_wait:
        return Outcome(facts | {"status": "PENDING"}, job_id)
    return followed(jobs, job_id, facts)


def followed(jobs: Jobs, job_id: str, facts: Mapping[str, Any] | None = None) -> Outcome:
    """Stream a job's log to its end; its exit code becomes ours. Ctrl-C leaves it running."""
    try:
        job = jobs.follow(job_id, _write)
    except KeyboardInterrupt:
        print(
            f"\njob {job_id} goes on; to see it: everview jobs logs {job_id} --follow; "
            f"to stop it: everview jobs stop {job_id} (--address {jobs.address})",
            file=sys.stderr,
        )
        raise
    return Outcome(
        {**(facts or {}), "status": job.status, "message": job.message},
        ending(job),
        exit_code=job.exit_status(),
    )


def ending(job: Job) -> str:
    """How a job ended, in a line."""
    code = job.exit_status()
    if job.status == "SUCCEEDED":
        return f"job {job.id} succeeded"
    reason = "" if job.exit_code is not None or not job.message else f": {job.message[-400:]}"
    return f"job {job.id} {job.status.lower()}, exit code {code}{reason}"


def job_request(arguments: Arguments, shipped_py_modules: Sequence[str]) -> JobRequest:
    """What is asked of the cluster. Raises UsageError for JSON that is none."""
    from everview.pipeline.cluster.jobs import JobRequest

    environment = _json_object("--runtime-env-json", arguments.runtime_env_json)
    modules = environment.get("py_modules", [])
    if not isinstance(modules, list):
        raise UsageError("--runtime-env-json: py_modules must be a list")
    environment["py_modules"] = [*shipped_py_modules, *modules]
    if arguments.working_dir is not None:
        environment["working_dir"] = arguments.working_dir
    metadata = _json_object("--metadata-json", arguments.metadata_json)
    return JobRequest(
        words=(*_PROGRAM, *arguments.words),
        submission_id=arguments.submission_id,
        runtime_env=environment,
        metadata={key: str(value) for key, value in metadata.items()},
        num_cpus=arguments.entrypoint_num_cpus,
        num_gpus=arguments.entrypoint_num_gpus,
        memory=arguments.entrypoint_memory,
        resources=_json_object("--entrypoint-resources", arguments.entrypoint_resources),
    )


def ray_command(request: JobRequest, address: str, arguments: Arguments) -> str:
    """The line for a shell that asks Ray's own command for the same job; secrets left out.

    Ray's client lets RAY_API_SERVER_ADDRESS win over --address, so the line sets it.
    """
    from everview.pipeline.runs.plain import redact

    words = ["ray", "job", "submit", "--address", address]
    resources = json.dumps(dict(request.resources)) if request.resources else None
    optional = {
        "--submission-id": request.submission_id,
        "--entrypoint-num-cpus": request.num_cpus,
        "--entrypoint-num-gpus": request.num_gpus,
        "--entrypoint-memory": request.memory,
        "--entrypoint-resources": resources,
        "--metadata-json": json.dumps(dict(request.metadata)) if request.metadata else None,
    }
    for flag, value in optional.items():
        words += [] if value is None else [flag, str(value)]
    words += ["--no-wait"] if arguments.no_wait else []
    words += [] if arguments.verify == "true" else ["--verify", arguments.verify]
    words += ["--runtime-env-json", json.dumps(redact(dict(request.runtime_env)))]
    words += ["--", *request.words]
    return f"RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS={shlex.quote(address)} {shlex.join(words)}"


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of submit, and what begins with the verb (or follows `--`)."""
    switches = {
        name
        for field in fields(Arguments)
        if isinstance(field.default, bool)
        for name in (f"--{field.name.replace('_', '-')}", f"--{field.name}")
    }
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return list(words[:at]), list(words[at + 1 :])
        if not word.startswith("-"):
            break
        at += 1 if "=" in word or word in switches or word in ("-h", "--help") else 2
    return list(words[:at]), list(words[at:])


def _check(words: Sequence[str]) -> None:
    """Parse the verb's own flags, so that a typing error costs no job. Exits as the verb would."""
    from everview.workflows.cli.verbs import find_verb

    verb = find_verb(words[0])
    if verb.name in _STAYS_HERE:
        raise UsageError(f"`{verb.name}` runs here, not on a cluster")
    if any(word == "--config" or word.startswith("--config=") for word in words):
        raise UsageError(
            "--config names a file of this machine, which the cluster doesn't have; give its "
            "values as flags"
        )
    module = verb.load()
    if hasattr(module, "parse_words"):
        module.parse_words(words[1:], f"everview {verb.name}")
    else:
        parse(module.Arguments, words[1:], f"everview {verb.name}")


def _json_object(flag: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{flag} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{flag} must be a JSON object, not {text[:60]}")
    return value


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
