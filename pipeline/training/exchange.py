"""What ranks tell each other on the host: small facts through a store, agreement once a step.

Both end with an error that names who is missing: a collective that waits for a rank that will never
come is otherwise silent for as long as its library pleases. Every rank writes down which step it
has reached; whoever has waited too long reads that, and blames those who are behind.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch

from everview.models.context import Context
from everview.pipeline.errors import TryAgain
from everview.pipeline.training.ranks import Ranks

_T = TypeVar("_T")
_GRACE_S = 5.0
"""For the way to the store and back."""


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
                lost = self._lost()
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
        name, patience_s = f"{key}/{rank}", self.timeout_s * patience

        def read() -> str:
            self.store.wait([name], timedelta(seconds=patience_s))
            return self.store.get(name)

        try:
            return json.loads(_answer(read, patience_s + _GRACE_S))
        except RuntimeError as error:  # torch's DistStoreError and DistNetworkError are
            raise LostRankError(
                f"rank {rank} of {self.ranks.size} said nothing about {key} within "
                f"{patience_s:g} s; the same command continues from the last "
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

    def _lost(self) -> str:
        """Who is missing, in words; empty if nobody is."""
        longest = self._patience_s + self.ranks.size + _GRACE_S
        try:
            return _answer(lambda: self._behind() or self._silent(), longest)
        except RuntimeError:
            return f"rank 0 of {self.ranks.size}, which keeps the ranks' store, doesn't answer"

    def _behind(self) -> str:
        """The ranks that haven't come as far as this one, in words; empty if all have."""
        size, behind = self.ranks.size, []
        for rank in range(size):
            step = self._step_of(rank)
            if step < self._reached:
                behind.append(f"rank {rank} of {size} never got past step {step}")
        return " and ".join(behind)

    def _step_of(self, rank: int) -> int:
        key = f"reached/{rank}"
        return int(self.store.get(key)) if self.store.check([key]) else -1

    def _silent(self) -> str:
        """Where all came to the same step, the ranks that don't fail in it as this one does."""
        size, silent = self.ranks.size, []
        patience = timedelta(seconds=self._patience_s)
        self.store.set(f"failed/{self._reached}/{self.ranks.rank}", "1")
        for rank in range(size):
            try:
                self.store.wait([f"failed/{self._reached}/{rank}"], patience)
            except RuntimeError:
                silent.append(f"rank {rank} of {size} went silent in step {self._reached}")
                patience = timedelta(seconds=1)
        return " and ".join(silent)

    @property
    def _patience_s(self) -> float:
        return max(5.0, self.timeout_s / 2)


def _answer(ask: Callable[[], _T], patience_s: float) -> _T:
    """What `ask` returns. Raises RuntimeError when it does, or when it takes longer.

    A store whose keeper hangs, instead of being gone, answers nobody, and torch waits for it for
    ever in `check`, and in `wait` after its time has passed.
    """
    answers: queue.SimpleQueue[tuple[_T | None, RuntimeError | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((ask(), None))
        except RuntimeError as error:
            answers.put((None, error))

    threading.Thread(target=run, name="ranks' store", daemon=True).start()
    try:
        answer, error = answers.get(timeout=patience_s)
    except queue.Empty:
        raise RuntimeError(f"the ranks' store said nothing within {patience_s:g} s") from None
    if error is not None:
        raise error
    return answer


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
