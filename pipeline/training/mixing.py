"""Shares of a mixture, met closely over any stretch of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_GOLDEN = 0.6180339887498949


def golden_choice(number: int, shares: Sequence[float]) -> int:
    """Which of the shares entry `number` of the sequence belongs to.

    Multiples of the golden ratio spread evenly over [0, 1) (Weyl), so that any run of entries
    holds nearly its share of each.
    """
    ends = np.cumsum(shares)
    place = (0.5 + number * _GOLDEN) % 1.0
    return min(int(np.searchsorted(ends, place * ends[-1], side="right")), len(ends) - 1)
