"""Counts by reasons that a stream's senders have a say in: however many reasons, few keys."""

from __future__ import annotations

from collections import Counter

OTHERS = "other reasons"
_MOST = 64


class Tally(Counter[str]):
    """A counter of at most 64 reasons; what comes under any other counts as one of `OTHERS`."""

    def count(self, reason: str) -> None:
        """One more."""
        self[reason if reason in self or len(self) < _MOST else OTHERS] += 1
