"""Processes beside a command on a rented card: none outlives it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess


@contextmanager
def none_left(running: Collection[SpawnProcess]) -> Iterator[None]:
    """After the block, whatever ended it, those that are `running` then are told to end, and waited
    for. SIGTERM ends the block with SystemExit."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()
        signal.signal(signal.SIGTERM, before)
