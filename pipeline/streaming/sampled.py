"""Numbers of a stream that never ends, evenly thinned: enough for percentiles, bounded in size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_MOST = 1024


@dataclass
class Sampled:
    """Every `stride`-th of all values; the stride doubles whenever `_MOST` are held."""

    values: list[float] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(self, value: float) -> None:
        """One more."""
        if self.seen % self.stride == 0:
            self.values.append(value)
            if len(self.values) == _MOST:
                self.values = self.values[::2]
                self.stride *= 2
        self.seen += 1

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Places among all, from 0, and the values there, float64."""
        values, stride = np.array(self.values, np.float64), self.stride
        return np.arange(len(values), dtype=np.float64) * stride, values

    def percentile(self, percent: float) -> float:
        """Of what was taken; NaN of nothing."""
        return float(np.percentile(self.values, percent)) if self.values else math.nan

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot."""
        return {"values": self.values, "stride": self.stride, "seen": self.seen}

    @staticmethod
    def from_facts(facts: dict[str, Any]) -> Sampled:
        """Inverse of `to_facts`."""
        values = [float(value) for value in facts["values"]]
        return Sampled(values, int(facts["stride"]), int(facts["seen"]))
