"""Ray Train's process group for training: over the nodes' own addresses, and with signals and
notices that reach the training thread.

A worker's training runs in a thread, and its main thread waits in Ray's own loop, where a Python
signal handler may wait long for its turn. What the interpreter does at once, inside the real
handler, is to write the signal's number to a file descriptor: that is what training reads.

That a node will be taken away, Ray's drain API is told by an autoscaler or whoever gets the cloud's
notice; Ray Train (2.60) passes it on to the workers, and what to do about it is theirs to decide.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

log = logging.getLogger(__name__)

_ASK_S = 1.0
"""Seconds between questions after nodes that will be taken away."""

_pipe: list[int] = []
_received: list[int] = []


@dataclass
class WorkerSignals(TorchConfig):
    """A TorchConfig whose workers take SIGTERM for training to act on."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """See BackendConfig."""
        return _WithSignals


class _WithSignals(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(take_signals)
        worker_group.execute(meet_at_node_address)
        super().on_start(worker_group, backend_config)


def meet_at_node_address() -> None:
    """Have gloo use the interface with the address that the cluster knows this node by, unless
    GLOO_SOCKET_IFNAME says otherwise. By itself it takes the one that the host's name stands for,
    which is loopback on many hosts: ranks on two of them would never meet."""
    import psutil
    import ray

    own = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def take_signals() -> None:
    """Keep SIGTERM for `received_signal`; in a worker's main thread."""
    _received.clear()
    if not _pipe:
        _pipe.extend(os.pipe())
        for end in _pipe:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _leave_alone)


def received_signal() -> int:
    """SIGTERM's number once it has come, else 0; from any thread."""
    if not _received and _pipe:
        try:
            numbers = os.read(_pipe[0], 64)
        except BlockingIOError:
            return 0
        _received.extend(n for n in numbers if n == signal.SIGTERM)
    return _received[0] if _received else 0


def watch_nodes() -> threading.Event:
    """Set once a node of this worker group is known to be taken away soon; in every worker.

    Ray's answer is a barrier of all workers. It must neither hold up a step nor wait in training's
    place for a rank that is lost, so it is asked in a thread of its own.
    """
    from ray import train

    taken = threading.Event()
    pause = threading.Event()

    def watch() -> None:
        try:
            while train.get_preemption_info() is None:
                pause.wait(_ASK_S)
        except Exception as error:  # training goes on without the notice
            log.info("no notices of nodes that will be taken away: %s", error)
            return
        taken.set()

    threading.Thread(target=watch, name="everview-node-notices", daemon=True).start()
    return taken


def _leave_alone(number: int, frame: FrameType | None) -> None:
    """Training ends by itself."""
