"""Checkpoints written beside training: staging waits, the disk doesn't.

`submit` copies the tensors and returns; a thread writes them. At most one commit is on its way: the
next one waits for it and meets its error. So one staging memory is enough, kept between commits:
the first commit waits until it is made, the later ones for the copy alone (`staging`). Of several
ranks each writes its own files into one draft and tells the leader their sizes and hashes; the
leader seals the draft when it has heard all.
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everview.pipeline.errors import EverviewError, TryAgain
from everview.pipeline.training.checkpoints import (
    Entry,
    Files,
    Warn,
    checkpoint_name,
    seal,
    write_part,
)
from everview.pipeline.training.exchange import Exchange
from everview.pipeline.training.staging import Staging


class CheckpointWriter:
    """Commits below `directory`, by all ranks of `exchange` together; the newest `keep` stay."""

    def __init__(self, directory: Path, exchange: Exchange, keep: int, warn: Warn) -> None:
        """warn: hears, once, of staging memory that can't be pinned."""
        self.directory, self.keep = directory, keep
        self._staging = Staging(warn)
        self._exchange = exchange.thread_copy()
        self._size, self._rank = exchange.ranks.size, exchange.ranks.rank
        exchange.tell("attempt", uuid.uuid4().hex[:12])
        self._attempt = exchange.hear("attempt", 0)
        self._count = 0
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, step: int, tensors: Files, facts: Mapping[str, Any]) -> None:
        """Stage this rank's tensors and facts (the leader's count) and start writing them.

        Waits for the copy; the first time, and when names or shapes changed, also for its memory.
        Raises what the previous commit failed with; no rank has that commit then.
        """
        self.settle()
        staged = self._staging.fill(tensors)
        name = checkpoint_name(step, f"{self._attempt}-{self._count}")
        self._count += 1
        arguments = (name, step, staged, dict(facts))
        self._thread = threading.Thread(target=self._write, args=arguments, daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait until nothing is on its way. Raises what the last commit failed with."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def leave(self, patience_s: float = 10.0) -> None:
        """At the end of an attempt, however it ends: let a commit on its way get there, but don't
        wait long for ranks that may be gone. Raises nothing."""
        if self._thread is not None:
            self._thread.join(None if self._size == 1 else patience_s)

    def _write(self, name: str, step: int, tensors: Files, facts: dict[str, Any]) -> None:
        try:
            rank = self._rank if self._size > 1 else None
            try:
                entries = write_part(self.directory, name, tensors, rank)
            except (OSError, EverviewError) as error:
                self._exchange.tell(name, str(error))
                raise
            self._exchange.tell(name, [dataclasses.asdict(entry) for entry in entries])
            if self._rank == 0:
                self._seal(name, step, facts)
        except BaseException as error:  # met by whoever submits or settles next
            self._error = error

    def _seal(self, name: str, step: int, facts: dict[str, Any]) -> None:
        written: list[Entry] = []
        for rank in range(self._size):
            said = self._exchange.hear(name, rank)
            if isinstance(said, str):
                raise TryAgain(f"rank {rank} could not write the checkpoint of step {step}: {said}")
            written += [Entry(**entry) for entry in said]
        seal(self.directory, name, step, facts, written, self.keep)
