"""The one place that starts Ray or attaches to it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everview.pipeline.cluster.config import ClusterConfig
from everview.pipeline.cluster.probing import require_token_of_head
from everview.pipeline.cluster.shipping import shipped_code
from everview.pipeline.cluster.tokens import require_tokens
from everview.pipeline.errors import EnvironmentUnfit, TryAgain

log = logging.getLogger(__name__)

_SESSION_PREFIX = "everview-ray-"
_FIRST_WITH_TOKENS = (2, 52)


@dataclass(frozen=True)
class Cluster:
    """A cluster in use. address: HOST:PORT of its head. cpus, gpus: of all its nodes, in use or
    not. is_local: started by this process, ends with it."""

    address: str
    is_local: bool
    nodes: int
    cpus: float
    gpus: float


@contextlib.contextmanager
def cluster(config: ClusterConfig | None = None) -> Iterator[Cluster]:
    """Ray, for the length of the block: started here, or attached to by `config.address`.

    A local cluster listens on loopback alone, keeps its files in a folder of its own (removed at
    the end, left and named after an error) and ends with the block; if the driver is killed, the
    kernel ends the cluster with it. Call it from the main thread: the kernel ties the cluster to
    the thread that starts it. An attached cluster is left running. Raises EnvironmentUnfit when
    Ray is missing or too old, there is no token or the cluster doesn't ask for one; TryAgain when
    it doesn't answer.
    """
    config = config or ClusterConfig()
    import_ray()
    import ray

    if ray.is_initialized():
        yield _describe(is_local=False)
        return
    address = config.resolved_address()
    with _local(config) if address == "local" else _attached(config, address) as found:
        yield found


def import_ray() -> None:
    """Raises EnvironmentUnfit when there is no Ray, or one that knows no tokens."""
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError as error:
        raise EnvironmentUnfit(
            "ray is not installed; run `make setup`, or install everview[cluster]"
        ) from error
    if tuple(int(part) for part in version.split(".")[:2]) < _FIRST_WITH_TOKENS:
        raise EnvironmentUnfit(f"ray {version} knows no tokens; 2.52 or later is needed")
    # A GPU-less task sees the GPUs there are: torch is asked what to use, not the environment.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@contextlib.contextmanager
def _local(config: ClusterConfig) -> Iterator[Cluster]:
    import ray

    require_tokens(may_make_one=True)
    _remove_what_dead_drivers_left()
    place = Path(tempfile.mkdtemp(prefix=f"{_SESSION_PREFIX}{os.getpid()}-"))
    failed = False
    try:
        _start(config, place)
        yield _describe(is_local=True)
    except Exception:
        failed = True
        raise
    finally:
        ray.shutdown()
        if failed:
            log.info("what Ray itself logged is in %s", place / "session_latest" / "logs")
        else:
            shutil.rmtree(place, ignore_errors=True)


def _start(config: ClusterConfig, place: Path) -> None:
    """ray.init, again if need be: it gives itself half a minute, too little on a busy machine."""
    import ray

    for is_last in (False, False, True):
        try:
            with _loopback_only(), _own_signals():
                ray.init(
                    address="local",
                    num_cpus=config.cpus or _usable_cores(),
                    num_gpus=config.gpus,
                    object_store_memory=config.object_store_mib * 2**20,
                    include_dashboard=False,
                    _temp_dir=str(place),
                    **_quiet(config),
                )
            return
        except Exception as error:  # Ray raises the bare class when its processes are late
            ray.shutdown()
            _end_what_started(place)
            if is_last:
                reason = str(error).strip().partition("\n")[0]
                raise TryAgain(f"Ray didn't start on this machine: {reason}") from error


@contextlib.contextmanager
def _attached(config: ClusterConfig, address: str) -> Iterator[Cluster]:
    import ray

    token = require_tokens(may_make_one=False)
    head = _head_of_this_machine() if address == "auto" else address
    require_token_of_head(head, token)
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # the job brought the code
    environment = {} if in_job else {"py_modules": list(shipped_code().py_modules)}
    try:
        with _own_signals():
            ray.init(address=head, runtime_env=environment, **_quiet(config))
    except ConnectionError as error:
        raise EnvironmentUnfit(
            f"this machine is no node of the cluster at {head}; run it there as a job: "
            "`everview submit VERB ...`"
        ) from error
    except (RuntimeError, TimeoutError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TryAgain(f"the cluster at {head} took no driver: {reason}") from error
    try:
        yield _describe(is_local=False)
    finally:
        ray.shutdown()


def _quiet(config: ClusterConfig) -> dict[str, Any]:
    return {"log_to_driver": config.worker_logs, "logging_level": logging.ERROR}


def _describe(*, is_local: bool) -> Cluster:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    have = ray.cluster_resources()
    return Cluster(
        ray.get_runtime_context().gcs_address,
        is_local,
        len(nodes),
        have.get("CPU", 0.0),
        have.get("GPU", 0.0),
    )


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _head_of_this_machine() -> str:
    from ray._private.utils import read_ray_address

    address = read_ray_address()
    if not address:
        raise EnvironmentUnfit("no Ray runs on this machine; start one, or leave the address out")
    return str(address)


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Ray on Linux binds every port but the dashboard's to all interfaces, whatever address it is
    given. This is the switch by which it stays on 127.0.0.1 on other systems."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """ray.init takes SIGTERM for itself, drains and exits 1; a run saves and leaves with 143."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread; Ray can't have taken them either
        return
    mine = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, mine)


def _end_what_started(place: Path) -> None:
    """The processes of a start that failed: they would hold the ports and cores of the next one."""
    import psutil

    family: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if str(place) in " ".join(child.cmdline()):
                family += [child, *child.children(recursive=True)]
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()
    psutil.wait_procs(family, timeout=10.0)


def _remove_what_dead_drivers_left() -> None:
    """Folders of clusters whose driver was killed; the process id is part of the name."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SESSION_PREFIX}*-*"):
        pid = folder.name.removeprefix(_SESSION_PREFIX).partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
