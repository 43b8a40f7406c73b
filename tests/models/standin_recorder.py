"""A recorder without a GPU: its replays run the recorded function again, into the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from everview.models.state import named_tensors


class StandIn:
    """Counts what was done; refuses to record as a GPU would when `fails`."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.eager = self.recorded = self.replayed = self.settlings = 0

    def eagerly(self, run: Callable[[], Any]) -> Any:
        self.eager += 1
        return run()

    def record(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        result = run()

        def replay() -> None:
            self.replayed += 1
            for (_, kept), (_, new) in zip(
                named_tensors(result), named_tensors(run()), strict=True
            ):
                kept.copy_(new)

        return replay, result

    @contextmanager
    def in_order(self) -> Iterator[None]:
        yield

    @contextmanager
    def settled(self) -> Iterator[None]:
        self.settlings += 1
        yield
