"""Times that can be compared: candidates take turns, so that they share whatever disturbs them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Milliseconds of each round, by candidate."""

    rounds_ms: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """Median milliseconds of a candidate."""
        return statistics.median(self.rounds_ms[name])

    def ratio(self, name: str, to: str) -> float:
        """Median over rounds of time(name) / time(to), both of the same round."""
        pairs = zip(self.rounds_ms[name], self.rounds_ms[to], strict=True)
        return statistics.median(a / b for a, b in pairs)


def take_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """On a CPU: run every candidate once to warm up, then once a round in turn, A B C A B C ..."""
    for run in candidates.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - start) * 1e3)
    return Times({name: tuple(values) for name, values in taken.items()})
