"""The README's lines for one machine: a head with a token, and `everview submit` to it.

The head is a child of this test, on loopback, and ended by its process id.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.slow]

SECONDS = 120.0  # for anything here; every wait has an end
BIN = str(Path(sys.executable).parent)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """The environment of a shell that may use a running cluster of one node."""
    folder = Path(tempfile.mkdtemp(prefix="ev-head-"))  # Ray's socket names must be short
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    shell = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    shell |= {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
    }
    started: list[psutil.Process] = []
    try:
        # Ray gives a node half a minute to start, too little on a machine that is busy.
        url = start_head(folder, shell, started) or start_head(folder, shell, started)
        assert url, (folder / "head.log").read_text()
        yield shell | {"RAY_ADDRESS": url}
    finally:
        for process in started:
            end(process)
        shutil.rmtree(folder, ignore_errors=True)


def start_head(folder: Path, shell: dict[str, str], started: list[psutil.Process]) -> str:
    """The URL of its dashboard; empty if it ended before it was ready."""
    gcs, dashboard, agent, client = free_ports(4)
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2",
               "--dashboard-host=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
               f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
               "--object-store-memory=100000000", f"--temp-dir={folder / 'r'}"]  # fmt: skip
    environment = shell | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with (folder / "head.log").open("w") as log:
        process = psutil.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
    started.append(process)

    def is_ready() -> bool:
        ended = process.poll() is not None
        return ended or "block forever" in (folder / "head.log").read_text()

    wait_for(is_ready, "the head")
    url = f"http://127.0.0.1:{dashboard}"
    return url if process.poll() is None and turns_strangers_away(url) else ""


def end(process: psutil.Process) -> None:
    """A head and what it started, asked first."""
    try:
        family = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return
    for member in psutil.wait_procs(family, timeout=20)[1]:
        member.kill()


def turns_strangers_away(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/api/jobs/", timeout=30).close()
    except urllib.error.HTTPError as error:
        return error.code == 401
    return False


def wait_for(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not in {SECONDS:.0f} s"
        time.sleep(0.1)


def start(shell: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "everview.workflows.cli", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=shell)


@pytest.fixture(scope="module")
def begun(head: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """Four commands at once, for their start-ups to overlap."""
    run = tmp_path_factory.mktemp("jobs") / "run"
    few = ["--budget.seconds", "None", "--budget.steps", "3"]
    long = ["train", "tiny", "--budget.seconds", "600", "--out", str(run.with_name("long"))]
    commands = {
        "train": start(head, "submit", "train", "tiny", *few, "--out", str(run)),
        "inspect": start(head, "submit", "--submission-id", "bad", "inspect", "/no/capture"),
        "doctor": start(head, "doctor", "--cluster", "--json"),
        "long": start(head, "submit", "--submission-id", "long", "--no-wait", *long),
    }
    yield {"run": run, **commands}
    for process in commands.values():
        process.kill()
        process.wait(10)


def test_a_job_that_fails_gives_its_own_exit_code(begun: dict) -> None:
    told, said = begun["inspect"].communicate(timeout=SECONDS)
    assert begun["inspect"].returncode == 3, said
    assert "/no/capture does not exist" in told
    assert "job bad failed, exit code 3" in told
    assert "ray job submit --address" in said


def test_doctor_finds_a_closed_cluster_that_runs_our_code(begun: dict) -> None:
    told, said = begun["doctor"].communicate(timeout=SECONDS)
    found = {check["name"]: check["state"] for check in json.loads(told)["checks"]}
    assert begun["doctor"].returncode == 0, said
    assert set(found) == {"strangers", "transport", "job", "nodes", "versions", "code", "ports"}
    assert set(found.values()) == {"ok"}


def test_train_tiny_is_the_same_command_on_a_cluster(begun: dict, head: dict[str, str]) -> None:
    """Its log is streamed, its run directory is an ordinary one, made by the code of the wheel."""
    told, said = begun["train"].communicate(timeout=SECONDS)
    assert begun["train"].returncode == 0, told + said
    record = json.loads((begun["run"] / "run.json").read_text())
    assert (record["status"], record["config"]["name"]) == ("done", "tiny")
    assert "step 3" in told
    assert "py_modules_files" in record["code"]["path"]
    assert Path(head["RAY_AUTH_TOKEN_PATH"]).read_text() not in told + said


def test_a_job_that_is_stopped_ends_with_143(begun: dict, head: dict[str, str]) -> None:
    """`submit --no-wait`, `jobs stop`, `jobs status`, `jobs list`: the life of a job by hand."""
    told, said = begun["long"].communicate(timeout=SECONDS)
    assert (begun["long"].returncode, told.strip()) == (0, "long"), said
    wait_for(lambda: status_of("long", head) == "RUNNING", "the job")
    stopping = start(head, "jobs", "stop", "long")
    assert stopping.wait(SECONDS) == 0
    wait_for(lambda: status_of("long", head) == "STOPPED", "its end")
    status, listing = start(head, "jobs", "status", "long"), start(head, "jobs", "list")
    assert "exit code 143" in status.communicate(timeout=SECONDS)[0]
    assert status.returncode == 143
    listed = listing.communicate(timeout=SECONDS)[0].splitlines()
    states = {line.split()[0]: line.split()[1] for line in listed}
    assert (states["long"], states["bad"]) == ("STOPPED", "FAILED")


def status_of(job: str, shell: dict[str, str]) -> str:
    token = Path(shell["RAY_AUTH_TOKEN_PATH"]).read_text()
    url = f"{shell['RAY_ADDRESS']}/api/jobs/{job}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return str(json.load(reply)["status"])
