"""A cluster of several hosts, really: started, cut, killed, brought back, trained on.

    sudo python -m everview.workflows.cluster.several_hosts --out FILE.json [-- train tiny ...]

A head, three workers and a laptop, each a network namespace with an address of its own
(`hosts.py`). The laptop submits a training on two ranks, for which there is room on two hosts
alone. While they train, the link of one's host is cut, the other's host loses power, a host is told
to stop, and at last the head dies with all; after each the run must go on from its last commit, and
what is announced must take no rank by surprise. What was seen and how long it took is printed and
written as JSON. Takes a quarter of an hour on 2 cores.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import psutil

from everview.workflows.cluster.hosts import Host, hosts

_PATIENCE_S = 300.0
_IN_ORDER = ("RUNNING", "SUCCEEDED")
_NODES = ("head", "worker-a", "worker-b")
_SPARE = "worker-c"
_LEFT = "a node is to be taken away"
_PYTHON = str(Path(sys.executable).parent)
_ASK = """
import json, sys, urllib.error, urllib.request
url, token = sys.argv[1:]
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token} if token else {})
try:
    with urllib.request.urlopen(request, timeout=10) as reply:
        print(json.dumps([reply.status, json.load(reply)]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, None]))
except OSError as error:
    print(json.dumps([0, str(error)]))
"""


@dataclass(frozen=True)
class Event:
    """What was waited for, after how many seconds it was so, or that it wasn't in time."""

    what: str
    seconds: float
    happened: bool


@dataclass
class Trial:
    """The hosts, what runs on them and what has been seen so far."""

    hosts: dict[str, Host]
    folder: Path
    log: IO[str]
    events: list[Event] = field(default_factory=list)
    nodes: dict[str, psutil.Popen] = field(default_factory=dict)

    @property
    def token(self) -> str:
        return (self.folder / "token").read_text()

    @property
    def dashboard(self) -> str:
        return f"http://{self.hosts['head'].address}:8265"

    def shell(self) -> dict[str, str]:
        keep = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return keep | {
            "PATH": f"{_PYTHON}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "OMP_NUM_THREADS": "1",
        }

    def run(self, host: str, *words: str) -> psutil.Popen:
        return self.hosts[host].start(words, self.shell(), self.log, self.folder)

    def start_node(self, name: str) -> None:
        """`ray start` on a host, as the README of the cluster files says it."""
        address, head = self.hosts[name].address, self.hosts["head"].address
        joins = [f"--address={head}:6379"]
        if name == "head":
            joins = ["--head", "--port=6379", f"--dashboard-host={address}",
                     f"--temp-dir={self.folder / 'r'}"]  # fmt: skip
        self.nodes[name] = self.run(
            name, "ray", "start", "--block", *joins, f"--node-ip-address={address}",
            f"--num-cpus={0 if name == 'head' else 1}", "--object-store-memory=100000000",
        )  # fmt: skip

    def has_nodes(self, *names: str) -> bool:
        """Whether just these are alive. Ray gives a node half a minute to start, and on a busy
        machine that isn't enough: one that gave up is started again."""
        for name in names:
            if self.nodes[name].poll() is not None:
                self.hosts[name].lose_power()  # its agents outlive it and hold its ports
                self.start_node(name)
        return self.living() == sorted(self.hosts[name].address for name in names)

    def start_cluster(self, what: str) -> None:
        """The head, and the workers one after the other once it answers."""
        for count, name in enumerate(_NODES, start=1):
            self.start_node(name)
            joined = what if count == len(_NODES) else f"{name} has joined"
            self.wait(joined, partial(self.has_nodes, *_NODES[:count]))

    def ask(self, path: str, token: str | None = None) -> tuple[int, Any]:
        """The dashboard's answer as the laptop gets it: status and JSON; 0 when there is none."""
        output = self.folder / f"answer-{secrets.token_hex(4)}"
        words = [sys.executable, "-c", _ASK, self.dashboard + path]
        words.append(self.token if token is None else token)
        with output.open("w") as answer:
            asking = self.hosts["laptop"].start(words, self.shell(), answer, self.folder)
            with contextlib.suppress(psutil.TimeoutExpired):  # a busy machine: no answer yet
                asking.wait(60)
            with contextlib.suppress(psutil.NoSuchProcess):
                asking.kill()
        status, value = json.loads(output.read_text() or "[0, null]")
        output.unlink()
        return status, value

    def living(self) -> list[str]:
        """Addresses of the nodes that the head takes for alive."""
        status, value = self.ask("/api/v0/nodes")
        if status != 200:
            return []
        nodes = value["data"]["result"]["result"]
        return sorted(node["node_ip"] for node in nodes if node["state"] == "ALIVE")

    def job(self, name: str) -> str:
        status, value = self.ask(f"/api/jobs/{name}")
        return str(value["status"]) if status == 200 else "unknown"

    def said(self, name: str) -> str:
        """What a job has printed."""
        status, value = self.ask(f"/api/jobs/{name}/logs")
        return str(value["logs"]) if status == 200 else ""

    def trains_on(self, *names: str) -> bool:
        """Whether a rank of the training lives on just these hosts."""
        return [name for name, host in self.hosts.items() if _has_rank(host)] == sorted(names)

    def wait(self, what: str, is_so: Callable[[], bool], patience_s: float = _PATIENCE_S) -> None:
        """Record when something becomes so; a thing that doesn't ends the trial."""
        began = time.monotonic()
        while not (happened := is_so()) and time.monotonic() - began < patience_s:
            time.sleep(0.5)
        event = Event(what, round(time.monotonic() - began, 1), happened)
        self.events.append(event)
        print(f"{event.seconds:6.1f} s  {'' if happened else 'NOT '}{what}", flush=True)
        if not happened:
            raise TimeoutError(what)


def _has_rank(host: Host) -> bool:
    for process in host.members():
        with contextlib.suppress(psutil.Error):
            if any("TrainWorker" in word for word in process.cmdline()[:1]):
                return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file for what was seen")
    parser.add_argument("--keep-logs", type=Path, help="file for what the hosts printed")
    parser.add_argument("words", nargs="*", help="verb to submit, without --out")
    arguments = parser.parse_args()
    more = ["--commit-every-s", "3", "--parallel.timeout-s", "30"]
    words = arguments.words or ["train", "tiny", "--budget.seconds", "240", *more]
    words += ["--workers", "2"]
    with new_trial(arguments.keep_logs) as trial:
        try:
            rehearse(trial, words)
        except TimeoutError:
            for name in ("first", "second"):
                print(trial.said(name)[-20_000:], file=trial.log, flush=True)
        finally:
            report(trial, words, arguments.out)
    sys.exit(0 if all(event.happened for event in trial.events) else 1)


@contextlib.contextmanager
def new_trial(keep_logs: Path | None) -> Iterator[Trial]:
    """Hosts and a folder that they share, both gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ev-hosts-"))
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "token").chmod(0o600)
    try:
        with (
            (folder / "log").open("w") as log,
            hosts(*_NODES, _SPARE, "laptop") as made,
        ):
            yield Trial(made, folder, log)
    finally:
        if keep_logs is not None:
            shutil.copy2(folder / "log", keep_logs)
        shutil.rmtree(folder, ignore_errors=True)


def rehearse(trial: Trial, words: Sequence[str]) -> None:
    """The whole story, in order."""
    run = trial.folder / "run"
    trial.start_cluster("three nodes, each with its own address")
    trial.wait("a stranger on the network gets 401", lambda: trial.ask("/api/jobs/", "")[0] == 401)
    submit(trial, "first", words, run)
    goes_on(trial, "the training has committed", run, "worker-a", "worker-b")
    lose_link(trial, run)
    lose_node(trial, run)
    lose_announced_node(trial, run)
    lose_head(trial, words, run)


def lose_link(trial: Trial, run: Path) -> None:
    """Nothing comes or goes: the ranks must not wait for ever, and say who is missing."""
    before = missed(trial)
    trial.hosts["worker-a"].cut()
    trial.wait("worker-a is cut off: its rank is missed, by name", lambda: missed(trial) > before)
    trial.wait("and it is given up", lambda: trial.has_nodes("head", "worker-b"))
    trial.hosts["worker-a"].mend()
    bring_back(trial, "worker-a")
    goes_on(trial, "both train again", run, "worker-a", "worker-b")


def lose_node(trial: Trial, run: Path) -> None:
    """A host with a rank dies at once, and another one takes its place. Ray sees a closed
    connection, and starts the ranks again before the other one has missed it."""
    trial.hosts["worker-b"].lose_power()
    trial.wait("worker-b is without power: it is given up",
               lambda: trial.has_nodes("head", "worker-a"))  # fmt: skip
    bring_back(trial, "worker-b")
    goes_on(trial, "both train again", run, "worker-a", "worker-b")


def lose_announced_node(trial: Trial, run: Path) -> None:
    """A host is told to stop, as a pod is: Ray drains it first (30 s), and the ranks must be gone
    from it by then; nobody is missed."""
    before = missed(trial)
    trial.start_node(_SPARE)
    trial.wait(f"{_SPARE} has joined", lambda: trial.has_nodes(*_NODES, _SPARE))
    trial.nodes["worker-a"].terminate()
    trial.wait("worker-a is to stop: the run leaves it", lambda: _LEFT in trial.said("first"))
    trial.wait("and it has stopped", lambda: trial.has_nodes("head", "worker-b", _SPARE))
    goes_on(trial, "it trains elsewhere", run, "worker-b", _SPARE)
    trial.wait("no rank was missed", lambda: missed(trial) == before)


def lose_head(trial: Trial, words: Sequence[str], run: Path) -> None:
    """A head that dies ends its cluster and its jobs: the same command on a new one continues."""
    trial.wait("the job is still the first", lambda: trial.job("first") in _IN_ORDER)
    for name in (*_NODES, _SPARE):
        trial.hosts[name].lose_power()
    before = committed_steps(run)
    trial.start_cluster("after the head's death, three nodes again")
    submit(trial, "second", words, run)
    trial.wait(f"the run goes on after step {before}", lambda: committed_steps(run) > before)
    trial.wait("and finishes", lambda: trial.job("second") == "SUCCEEDED")


def missed(trial: Trial) -> int:
    """How often the job has named a lost rank."""
    return trial.said("first").count("lost: rank")


def goes_on(trial: Trial, what: str, run: Path, *names: str) -> None:
    """Wait for a commit newer than the newest there is, with a rank on each of these hosts."""
    before = committed_steps(run)
    trial.wait(what, lambda: committed_steps(run) > before and trial.trains_on(*names))


def bring_back(trial: Trial, name: str) -> None:
    """A host that was given up comes back as a new node: what is left of the old one is ended."""
    trial.hosts[name].lose_power()
    trial.start_node(name)
    trial.wait(f"{name} is back", lambda: trial.has_nodes(*_NODES))


def submit(trial: Trial, name: str, words: Sequence[str], run: Path) -> None:
    """`everview submit` on the laptop; the job's name is known to the cluster afterwards."""
    program = [sys.executable, "-m", "everview.workflows.cli", "submit", "--no-wait"]
    done = trial.run("laptop", *program, "--submission-id", name, *words, "--out", str(run))
    trial.wait(f"job {name} is submitted from the laptop", lambda: done.poll() is not None)
    trial.wait(f"job {name} runs", lambda: trial.job(name) in _IN_ORDER)


def committed_steps(run: Path) -> int:
    """Steps in the newest checkpoint of a training; 0 without one."""
    names = [path.name for path in (run / "checkpoints").glob("*") if path.is_dir()]
    steps = [int("".join(c for c in name.partition(".")[0] if c.isdigit()) or 0) for name in names]
    return max(steps, default=0)


def report(trial: Trial, words: Sequence[str], out: Path) -> None:
    import importlib.metadata

    facts = {
        "what": "a head, three workers and a laptop in network namespaces of one machine; "
        "two ranks train, on two workers",
        "job": list(words),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "ray": importlib.metadata.version("ray"),
        "passed": all(event.happened for event in trial.events),
        "events": [asdict(event) for event in trial.events],
    }
    out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
