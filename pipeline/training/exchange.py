"""What ranks tell each other on the host: small facts through a store, agreement once a step.

Both end with an error that names who is missing: a collective that waits for a rank that will never
come is otherwise silent for as long as its library pleases. Every rank writes down which step it
has reached; whoever has waited too long reads that, and blames those who are behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch

from everview.models.context import Context
from everview.pipeline.errors import TryAgain
from everview.pipeline.training.ranks import Ranks


class LostRankError(TryAgain):
    """A rank didn't come where the others waited for it; the same command continues the run."""


@dataclass
class Exchange:
    """Facts between the ranks of one attempt; without others, everything is what one said.

    store: torch.distributed's key-value store, or None alone. host: a process group on the CPU.
    """

    ranks: Ranks = field(default_factory=Ranks)
    store: Any = None
    host: Any = None
    timeout_s: float = 120.0
    _reached: int = -1
    _alone: dict[str, Any] = field(default_factory=dict)

    def agree(self, step: int, values: Sequence[float]) -> list[float]:
        """The largest of every value over all ranks, who must all have come to `step`.

        Raises LostRankError.
        """
        if self.ranks.size == 1:
            return list(values)
        self._reached = step
        self.store.set(f"reached/{self.ranks.rank}", str(step))
        said = torch.tensor(values, dtype=torch.float64)
        with self.naming_the_lost():
            torch.distributed.all_reduce(said, torch.distributed.ReduceOp.MAX, group=self.host)
        return said.tolist()

    @contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Turn what torch.distributed raises when a rank is missing into a LostRankError."""
        try:
            yield
        except RuntimeError as error:
            lost = ""
            if self.ranks.size > 1 and _is_loss(error):
                lost = self._behind() or self._silent()
            if not lost:
                raise
            raise LostRankError(
                f"{lost} (step {self._reached}, waited up to {self.timeout_s:g} s); the same "
                "command continues from the last checkpoint"
            ) from error

    def gather(self, key: str, value: Any, patience: float = 1.0) -> list[Any]:
        """Every rank's `value`, which fits JSON, under a key that is used once.

        patience: how many times the usual time may pass. Raises LostRankError.
        """
        self.tell(key, value)
        return [self.hear(key, rank, patience) for rank in range(self.ranks.size)]

    def tell(self, key: str, value: Any) -> None:
        """Leave this rank's `value` under `key`."""
        if self.store is None:
            self._alone[key] = value
        else:
            self.store.set(f"{key}/{self.ranks.rank}", json.dumps(value))

    def hear(self, key: str, rank: int, patience: float = 1.0) -> Any:
        """What `rank` left under `key`, once it is there. Raises LostRankError."""
        if self.store is None:
            return self._alone.pop(key)
        name = f"{key}/{rank}"
        try:
            self.store.wait([name], timedelta(seconds=self.timeout_s * patience))
            return json.loads(self.store.get(name))
        except RuntimeError as error:  # torch's DistStoreError and DistNetworkError are
            raise LostRankError(
                f"rank {rank} of {self.ranks.size} said nothing about {key} within "
                f"{self.timeout_s * patience:g} s; the same command continues from the last "
                "checkpoint"
            ) from error

    def leave(self) -> None:
        """The end of an attempt, which all have come to. The first rank keeps the store: it goes
        when the others have said that they need it no more. Raises LostRankError."""
        self.gather("end", True)
        if not self.ranks.leads:
            self.tell("left", True)
            return
        for rank in range(1, self.ranks.size):
            self.hear("left", rank)

    def thread_copy(self) -> Exchange:
        """The same for another thread, whose waiting blocks nobody else's."""
        if self.store is None:
            return self
        return Exchange(self.ranks, self.store.clone(), None, self.timeout_s)

    def _behind(self) -> str:
        """The ranks that haven't come as far as this one, in words; empty if all have."""
        size, behind = self.ranks.size, []
        try:
            for rank in range(size):
                key = f"reached/{rank}"
                there = self.store.check([key])
                step = int(self.store.get(key)) if there else -1
                if step < self._reached:
                    behind.append(f"rank {rank} of {size} never got past step {step}")
        except RuntimeError:
            return f"rank 0 of {size}, which keeps the ranks' store, is gone"
        return " and ".join(behind)

    def _silent(self) -> str:
        """Where all came to the same step, the ranks that don't fail in it as this one does."""
        size, silent = self.ranks.size, []
        patience = timedelta(seconds=max(5.0, self.timeout_s / 2))
        try:
            self.store.set(f"failed/{self._reached}/{self.ranks.rank}", "1")
            for rank in range(size):
                try:
                    self.store.wait([f"failed/{self._reached}/{rank}"], patience)
                except RuntimeError:
                    silent.append(f"rank {rank} of {size} went silent in step {self._reached}")
                    patience = timedelta(seconds=1)
        except RuntimeError:
            return f"rank 0 of {size}, which keeps the ranks' store, is gone"
        return " and ".join(silent)


def _is_loss(error: RuntimeError) -> bool:
    """Whether a collective failed for want of another rank, as far as its message tells."""
    words = ("gloo", "NCCL", "Timed out", "timed out", "timeout", "Connection", "connection",
             "Broken pipe", "peer", "store")  # fmt: skip
    return any(word in str(error) for word in words)


def open_exchange(context: int, timeout_s: float) -> Exchange:
    """The exchange over torch.distributed's default process group, which must be there.

    context: consecutive ranks that share every capture. Its groups are made here, by all ranks in
    the same order.
    """
    from torch import distributed

    rank, size = distributed.get_rank(), distributed.get_world_size()
    wait = timedelta(seconds=timeout_s)
    host = distributed.new_group(backend="gloo", timeout=wait)
    own = Context()
    if context > 1:
        for first in range(0, size - size % context, context):
            members = list(range(first, first + context))
            group = distributed.new_group(members, timeout=wait)
            if rank in members:
                own = Context(rank - first, context, str(group.group_name))  # type: ignore[union-attr]
    # a name of its own: keys are used once in an exchange, and a process may open several
    place = f"everview/{host.group_name}"  # type: ignore[union-attr]
    store = distributed.PrefixStore(place, distributed.distributed_c10d._get_default_store())
    store.set_timeout(wait)  # or asking a rank 0 that hangs would take minutes
    return Exchange(Ranks(rank, size, own), store, host, timeout_s)
