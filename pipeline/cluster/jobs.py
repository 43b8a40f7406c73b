"""Jobs on a Ray cluster, through its dashboard: submitted, followed, listed, stopped.

A thin layer over Ray's own client, which adds what that leaves out: a cluster that asks nobody
for a token is refused, a dropped connection is taken up where the log stopped, and the exit code
of the entry point is kept (Ray's own command turns every failure into 1).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from everview.pipeline.cluster.connect import import_ray
from everview.pipeline.cluster.probing import require_token_of_dashboard
from everview.pipeline.cluster.tokens import HOW_TO_GIVE, require_tokens
from everview.pipeline.errors import EnvironmentUnfit, EverviewError, TryAgain, UsageError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

log = logging.getLogger(__name__)

DEFAULT_DASHBOARD = "http://127.0.0.1:8265"
_SECONDS_WITHOUT_CONTACT = 120.0
_EXIT_OF = {"SUCCEEDED": 0, "STOPPED": 143}


class JobFailed(EverviewError):
    """A job that ended otherwise than well; exit_code is the one its entry point left."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class JobRequest:
    """What `ray job submit` takes. words: the entry point's argv. num_cpus, num_gpus, memory
    (bytes) and resources are reserved for the entry point alone."""

    words: tuple[str, ...]
    submission_id: str | None = None
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    num_cpus: float | None = None
    num_gpus: float | None = None
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A job as the cluster describes it. exit_code: None until it has ended, or if Ray ended it.
    started_at, ended_at: seconds since 1970."""

    id: str
    status: str
    message: str
    entrypoint: str
    exit_code: int | None
    started_at: float | None
    ended_at: float | None
    metadata: Mapping[str, str]

    @property
    def has_ended(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    def exit_status(self) -> int:
        """The exit code to pass on: the entry point's; 143 when it was stopped; 1 for a job that
        failed before its entry point could leave one."""
        if self.status == "FAILED":
            code = self.exit_code or 1
            return 128 - code if code < 0 else code  # ended by a signal
        return _EXIT_OF.get(self.status, 1)


def dashboard_address(given: str = "") -> str:
    """The dashboard to talk to: given, RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine's.

    Raises UsageError for an address that is none of a dashboard.
    """
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    address = given or next((os.environ[name] for name in names if os.environ.get(name)), "")
    if not address or address in ("auto", "local"):
        return DEFAULT_DASHBOARD
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "http", address
    if scheme not in ("http", "https") or not rest:
        raise UsageError(f"{address} is no dashboard; give --address http://HOST:8265")
    return f"{scheme}://{rest}".rstrip("/")


class Jobs:
    """The jobs of one cluster. Raises EnvironmentUnfit when the dashboard at `address` answers
    without a token or has another one, TryAgain when it doesn't answer."""

    def __init__(self, address: str, *, verify: bool | str = True) -> None:
        import_ray()
        self.address = address
        require_token_of_dashboard(address, verify)
        require_tokens(may_make_one=False)
        from ray.job_submission import JobSubmissionClient

        for chatty in (
            "dashboard.modules.dashboard_sdk",
            "dashboard.modules.job.sdk",
            "_private.runtime_env.packaging",
        ):
            logging.getLogger(f"ray.{chatty}").setLevel(logging.ERROR)
        with _said_plainly(address), _this_dashboard(address):
            self._client: JobSubmissionClient = JobSubmissionClient(address, verify=verify)

    def submit(self, request: JobRequest) -> str:
        """Start a job; its id. Raises UsageError for an id that is taken."""
        with _said_plainly(self.address):
            return str(
                self._client.submit_job(
                    entrypoint=shlex.join(request.words),
                    submission_id=request.submission_id,
                    runtime_env=dict(request.runtime_env),
                    metadata=dict(request.metadata),
                    entrypoint_num_cpus=request.num_cpus,
                    entrypoint_num_gpus=request.num_gpus,
                    entrypoint_memory=request.memory,
                    entrypoint_resources=dict(request.resources) or None,
                )
            )

    def find(self, job_id: str) -> Job:
        """Raises UsageError when the cluster doesn't know it."""
        with _said_plainly(self.address):
            return _job(self._client.get_job_info(job_id))

    def list(self) -> list[Job]:
        """Jobs that were submitted, oldest first; drivers that attached by themselves are none."""
        with _said_plainly(self.address):
            found = [_job(info) for info in self._client.list_jobs() if info.submission_id]
        return sorted(found, key=lambda job: job.started_at or 0.0)

    def stop(self, job_id: str) -> None:
        """Ask a job to end: SIGTERM, and SIGKILL after the cluster's RAY_JOB_STOP_WAIT_TIME_S."""
        with _said_plainly(self.address):
            self._client.stop_job(job_id)

    def logs(self, job_id: str) -> str:
        """All that the job has printed so far."""
        with _said_plainly(self.address):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], object]) -> Job:
        """Pass on what the job prints until it has ended; its last description.

        A connection that breaks is made again, and nothing is printed twice. Raises TryAgain when
        the cluster hasn't answered for two minutes; the job may go on without us.
        """
        printed = 0
        heard_at = time.monotonic()
        while True:
            try:
                for text in self._tail(job_id, printed):
                    write(text)
                    printed += len(text)
                    heard_at = time.monotonic()
                job = self.find(job_id)
                heard_at = time.monotonic()
                if job.has_ended:
                    return job
            except TryAgain as error:
                if time.monotonic() - heard_at > _SECONDS_WITHOUT_CONTACT:
                    raise TryAgain(
                        f"{error}; job {job_id} may be running still: "
                        f"everview jobs logs {job_id} --follow --address {self.address}"
                    ) from error
                time.sleep(2.0)

    def _tail(self, job_id: str, printed: int) -> Iterator[str]:
        """The log after its first `printed` characters, until its end or the job's."""
        passed = 0
        tail = self._client.tail_job_logs(job_id)
        with asyncio.Runner() as loop:
            while True:
                with _said_plainly(self.address, lost=True):
                    try:
                        text: str = loop.run(anext(tail))  # type: ignore[arg-type]
                    except StopAsyncIteration:
                        return
                new = text[max(0, printed - passed) :]
                passed += len(text)
                if new:
                    yield new


def _job(info: Any) -> Job:
    def seconds(milliseconds: int | None) -> float | None:
        return None if milliseconds is None else milliseconds / 1e3

    return Job(
        id=info.submission_id or info.job_id or "",
        status=str(getattr(info.status, "value", info.status)),
        message=" ".join((info.message or "").split()),
        entrypoint=info.entrypoint,
        exit_code=info.driver_exit_code,
        started_at=seconds(info.start_time),
        ended_at=seconds(info.end_time),
        metadata=dict(info.metadata or {}),
    )


@contextlib.contextmanager
def _this_dashboard(address: str) -> Iterator[None]:
    """Ray lets these variables win over the address that was given."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _said_plainly(address: str, *, lost: bool = False) -> Iterator[None]:
    """What Ray's client raises, as our errors. lost: anything else is a connection that broke."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise EnvironmentUnfit(
            f"the cluster at {address} doesn't take the token given; {HOW_TO_GIVE}"
        ) from error
    except (ConnectionError, requests.RequestException, aiohttp.ClientError) as error:
        raise TryAgain(f"the cluster at {address} doesn't answer") from error
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if "does not exist" in reason or "already exists" in reason:
            raise UsageError(f"{_first_sentence(reason)} (cluster {address})") from error
        if lost:
            raise TryAgain(f"the connection to {address} broke") from error
        raise JobFailed(f"the cluster at {address} refused: {reason[-400:]}", 1) from error


def _first_sentence(reason: str) -> str:
    """Ray puts the server's traceback in the message; its last line is what went wrong."""
    for mark in ("ValueError: ", "RuntimeError: ", "status code 404: "):
        if mark in reason:
            reason = reason.rpartition(mark)[2]
    return reason.strip(" .\"'")[:300]
