"""Schedules: in which order a layer's chunks are written and read, as data.

A schedule expands, for a number of chunks, to a list of operations; every execution (all chunks
layer by layer in training, chunk by chunk in a stream) interprets the same list. Printing one is
its documentation:

    >>> print(*CHUNK_CAUSAL.operations(2), sep="; ")
    update 0; apply 0; update 1; apply 1

LaCT, arXiv 2505.23884, section 3.3 (update and apply orders); FSM, arXiv 2604.07350 (chunked set).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reads = Literal["last", "own", "previous"]


@dataclass(frozen=True)
class Operation:
    """`update` writes the sum over `chunks` once; `apply` reads for them with the state so far."""

    kind: Literal["update", "apply"]
    chunks: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind} {'+'.join(map(str, self.chunks))}"


@dataclass(frozen=True)
class Schedule:
    """name; joins_chunks: one update for all chunks; reads: the state a chunk's tokens read."""

    name: str
    joins_chunks: bool
    reads: Reads

    @property
    def is_causal(self) -> bool:
        """Whether chunk n's result depends on chunks up to n alone, so that it can be streamed."""
        return self.reads != "last"

    def operations(self, num_chunks: int) -> tuple[Operation, ...]:
        """The operations for `num_chunks` chunks, in order. Queries read after the last of them."""
        if num_chunks < 1:
            raise ValueError(f"{num_chunks} chunks: at least 1")
        every = tuple(range(num_chunks))
        updates = [every] if self.joins_chunks else [(n,) for n in every]
        if self.reads == "last":
            return (*(Operation("update", c) for c in updates), Operation("apply", every))
        first, second = ("update", "apply") if self.reads == "own" else ("apply", "update")
        return tuple(Operation(kind, c) for c in updates for kind in (first, second))  # type: ignore[arg-type]


SET = Schedule("set", joins_chunks=True, reads="last")
CHUNKED_SET = Schedule("chunked_set", joins_chunks=False, reads="last")
CHUNK_CAUSAL = Schedule("chunk_causal", joins_chunks=False, reads="own")
SHIFTED = Schedule("shifted", joins_chunks=False, reads="previous")

SCHEDULES = {s.name: s for s in (SET, CHUNKED_SET, CHUNK_CAUSAL, SHIFTED)}
