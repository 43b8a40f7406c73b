"""Ray Train's process group for training, with signals that reach the training thread.

A worker's training runs in a thread, and its main thread waits in Ray's own loop, where a Python
signal handler may wait long for its turn. What the interpreter does at once, inside the real
handler, is to write the signal's number to a file descriptor: that is what training reads.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

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
        super().on_start(worker_group, backend_config)


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


def _leave_alone(number: int, frame: FrameType | None) -> None:
    """Training ends by itself."""
