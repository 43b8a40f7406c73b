"""A cluster of this process alone: on loopback, behind a token, gone when its driver is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.ray

DRIVER = """
import json, os, signal, sys, threading, time
before = signal.getsignal(signal.SIGTERM)
from everview.pipeline.cluster import ClusterConfig, cluster
with cluster(ClusterConfig(cpus=2, object_store_mib=100)) as found:
    import ray

    @ray.remote
    def work(path):
        open(path, "w").write(str(os.getpid()))
        while True:  # never gives the processor back to Ray
            pass

    work.remote(sys.argv[1])
    while not (os.path.exists(sys.argv[1]) and open(sys.argv[1]).read()):
        time.sleep(0.02)
    with cluster() as inner:
        same = inner.address == found.address
    print(json.dumps({"address": found.address, "cpus": found.cpus, "nodes": found.nodes,
                      "same": same, "sigterm": signal.getsignal(signal.SIGTERM) == before}))
    sys.stdout.flush()
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def driver(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[subprocess.Popen[str], dict]]:
    """A driver with a busy worker, and what it said about its cluster."""
    marker = tmp_path_factory.mktemp("local") / "worker"
    command = [sys.executable, "-c", DRIVER, str(marker)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        said = json.loads(process.stdout.readline())
        yield process, said | {"worker": int(marker.read_text())}
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.slow
def test_a_local_cluster_has_what_was_asked_and_leaves_signals_alone(driver) -> None:  # type: ignore[no-untyped-def]
    _, said = driver
    assert (said["cpus"], said["nodes"]) == (2.0, 1)
    assert said["same"], "a second `cluster` in the block is another cluster"
    assert said["sigterm"], "Ray keeps SIGTERM for itself"


@pytest.mark.slow
def test_every_port_of_a_local_cluster_is_on_loopback(driver) -> None:  # type: ignore[no-untyped-def]
    process, _ = driver
    family = [process_of(process.pid), *process_of(process.pid).children(recursive=True)]
    open_ports = [
        connection.laddr
        for member in family
        for connection in member.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert open_ports
    inside = ("127.", "::1", "::ffff:127.")
    assert [address for address in open_ports if not address.ip.startswith(inside)] == []


@pytest.mark.slow
def test_a_killed_driver_takes_its_cluster_along(driver) -> None:  # type: ignore[no-untyped-def]
    """Also the worker that never listens: nothing of it may compute on for nobody. Two agents of
    Ray's, which compute nothing, try for a minute to tell the head that is gone."""
    process, said = driver
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    everybody = process_of(process.pid).children(recursive=True)
    family = [member for member in everybody if member.cmdline()[0] not in agents]
    assert said["worker"] in [member.pid for member in family]
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    _, alive = psutil.wait_procs(family, timeout=20)
    names = [member.name() for member in alive]
    for member in alive:
        member.kill()
    assert names == []


@pytest.mark.slow
def test_folders_of_killed_drivers_are_removed_by_the_next(driver) -> None:  # type: ignore[no-untyped-def]
    from everview.pipeline.cluster.connect import _remove_what_dead_drivers_left

    process, _ = driver
    process.kill()
    process.wait(10)
    deadline = time.monotonic() + 20
    while left := list(Path("/tmp").glob(f"everview-ray-{process.pid}-*")):
        assert time.monotonic() < deadline, left
        _remove_what_dead_drivers_left()


def process_of(pid: int) -> psutil.Process:
    return psutil.Process(pid)
