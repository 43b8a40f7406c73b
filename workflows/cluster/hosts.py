"""Hosts on one machine: network namespaces with addresses of their own, joined by a switch.

Nothing of the machine's own network is touched: the switch is a bridge in a namespace too. A host
has its address and its loopback, and no route to anywhere else, so that what is not on the switch
is refused at once instead of waited for; it shares the kernel, the file system (which stands
for a cluster's shared storage) and the clock. Needs root, `ip` and the right to make namespaces.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from everview.pipeline.errors import EnvironmentUnfit

_SUBNET = "10.77.0"


@dataclass(frozen=True)
class Host:
    """A namespace on the switch. address: its own, reachable from the other hosts alone."""

    name: str
    address: str
    processes: list[psutil.Popen] = field(default_factory=list, compare=False)

    def start(
        self, words: Sequence[str], environment: Mapping[str, str], log: IO[str], cwd: Path
    ) -> psutil.Popen:
        """A process on this host, in a group of its own, its output in `log`."""
        process = psutil.Popen(
            ["ip", "netns", "exec", self.name, *words],
            env=dict(environment), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def cut(self) -> None:
        """Pull the plug: nothing comes or goes, and no connection is closed."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        _ip("-n", self.name, "link", "set", "eth0", "up")

    def members(self) -> list[psutil.Process]:
        """Every process in this namespace, whoever its parent is by now."""
        listed = _ip("netns", "pids", self.name).split()
        found = []
        for pid in listed:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def lose_power(self) -> None:
        """SIGKILL to everything on this host at once; returns when nothing is left."""
        for _ in range(10):
            members = self.members()
            for member in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGKILL)
            psutil.wait_procs([*members, *self.processes], timeout=5)
            if not self.members():
                break
        self.processes.clear()


@contextlib.contextmanager
def hosts(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts of these names on one switch, for the length of the block; all is removed at its end.

    Raises EnvironmentUnfit where namespaces can't be made.
    """
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise EnvironmentUnfit("hosts of our own need root and `ip` (apt-get install iproute2)")
    tag = f"ev{secrets.token_hex(2)}"
    switch = f"{tag}-switch"
    made: list[Host] = []
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, name in enumerate(names, start=1):
            host = Host(f"{tag}-{name}", f"{_SUBNET}.{number}")
            _ip("netns", "add", host.name)
            made.append(host)
            _ip("-n", host.name, "link", "add", "eth0", "type", "veth",
                "peer", "name", f"port{number}", "netns", switch)  # fmt: skip
            _ip("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "eth0", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield dict(zip(names, made, strict=True))
    finally:
        for host in made:
            host.lose_power()
            _ip("netns", "delete", host.name)
        _ip("netns", "delete", switch)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentUnfit(f"`ip {' '.join(words)}` failed: {done.stderr.strip()}")
    return done.stdout
