"""Surprise sets the step: what was predicted worse than usual is written harder, and less else.

Every chunk is predicted before it is learned (foresight.py). Its error e is the residual in dB,
which knows no scale. With a fast and a slow running mean of it, as TRC2's critics (arXiv
2602.22479) have them,

    surprise = fast(e) - slow(e)        dB; above 0: worse than this stream usually is
    factor   = 2^(surprise / doubling)  on the step, within [least, most]

Nothing is peeked at: the error is of the state before the chunk, and the chunk's own write is what
it decides. Muon throws magnitudes away, so a learned rate couldn't do it; the step can.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from everview.pipeline.errors import UsageError

if TYPE_CHECKING:
    from everview.pipeline.streaming.foresight import Foreseen


@dataclass(frozen=True)
class Surprise:
    """A step that follows from how wrong predictions were; off unless `of` says which count.
    Raises UsageError for values out of range."""

    of: Literal["nothing", "memory", "picture"] = "nothing"
    """memory: what the fast weights alone draw, which are what the step moves; picture: with
    texture from the frame bank, which says whether the place was seen at all"""
    fast: float = 0.5
    """share of the old mean that stays at every chunk, of the fast one"""
    slow: float = 0.9
    """the same of the slow one"""
    doubling_db: float = 3.0
    """surprise that doubles the step"""
    least: float = 0.5
    """factor on the step that nothing goes under"""
    most: float = 2.0
    """and over"""

    def __post_init__(self) -> None:
        if not 0 <= self.fast < self.slow < 1:
            raise UsageError(
                f"surprise with fast {self.fast} and slow {self.slow}: 0 <= fast < slow < 1"
            )
        if not (math.isfinite(self.doubling_db) and self.doubling_db > 0):
            raise UsageError(f"doubling_db {self.doubling_db}: above 0")
        if not 0 < self.least <= 1 <= self.most <= 8:
            raise UsageError(
                f"surprise within {self.least} and {self.most}: 0 < least <= 1 <= most <= 8"
            )

    @property
    def is_on(self) -> bool:
        """Whether it sets steps."""
        return self.of != "nothing"


@dataclass
class Surprised:
    """One stream's. fast_db, slow_db: running means of the error; None before the first.
    lowest, highest: factors so far. ignored: chunks whose residual was no number."""

    policy: Surprise
    fast_db: float | None = None
    slow_db: float | None = None
    lowest: float = 1.0
    highest: float = 1.0
    ignored: int = 0

    def learn(self, foreseen: Iterable[Foreseen]) -> float:
        """A chunk's residuals into the means; returns the factor on the chunk's step."""
        if not self.policy.is_on:
            return 1.0
        scores = [
            seen.memory_db if self.policy.of == "memory" else seen.picture_db for seen in foreseen
        ]
        if not scores:  # nothing was predicted: the first chunk
            return 1.0
        error = -sum(scores) / len(scores)
        if not math.isfinite(error):
            self.ignored += 1
            return 1.0
        self.fast_db = _mean(self.fast_db, error, self.policy.fast)
        self.slow_db = _mean(self.slow_db, error, self.policy.slow)
        doublings = self.surprise_db / self.policy.doubling_db
        bounds = math.log2(self.policy.least), math.log2(self.policy.most)
        factor = 2.0 ** min(max(doublings, bounds[0]), bounds[1])
        self.lowest, self.highest = min(self.lowest, factor), max(self.highest, factor)
        return factor

    @property
    def surprise_db(self) -> float:
        """As of the last chunk."""
        if self.fast_db is None or self.slow_db is None:
            return 0.0
        return self.fast_db - self.slow_db

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot, and for metrics.json."""
        names = ("fast_db", "slow_db", "lowest", "highest", "ignored")
        return {name: getattr(self, name) for name in names}

    def restore(self, facts: dict[str, Any]) -> None:
        """Inverse of `to_facts`."""
        for name in self.to_facts():
            setattr(self, name, facts[name])


def _mean(mean: float | None, value: float, stays: float) -> float:
    return value if mean is None else stays * mean + (1 - stays) * value
