"""The numbers of a stream for the page's charts: from the run's rows, bounded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from everview.pipeline.runs.frames import JOURNAL_NAME

MOST_POINTS = 512
_MOST_BYTES_AT_ONCE = 4 * 2**20
VERDICTS = ("accepted", "rectified", "rejected")
CURVES = ("latency_ms", "rss_mib", "state_mib", "residual", "memory_residual")


@dataclass
class Curve:
    """Every `stride`-th of all points; the stride doubles when twice `MOST_POINTS` are held."""

    places: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(self, place: int, value: float) -> None:
        """One more."""
        if self.seen % self.stride == 0:
            self.places.append(place)
            self.values.append(value)
            if len(self.values) == 2 * MOST_POINTS:
                del self.places[1::2], self.values[1::2]
                self.stride *= 2
        self.seen += 1

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Places and values as float64."""
        return np.array(self.places, np.float64), np.array(self.values, np.float64)


@dataclass
class History:
    """What the charts show. gate: how many of the rows seen so far got each verdict."""

    num_rows: int = 0
    gate: Counter[str] = field(default_factory=Counter)
    curves: dict[str, Curve] = field(default_factory=lambda: {name: Curve() for name in CURVES})

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of frames.parquet, in order."""
        for row in rows:
            if row.get("gate") in VERDICTS:
                self.gate[row["gate"]] += 1
            for name, curve in self.curves.items():
                value = row.get(name)
                if isinstance(value, int | float) and np.isfinite(value):
                    curve.add(self.num_rows, float(value))
            self.num_rows += 1


class JournalTail:
    """The rows that a running stream has added since the last look."""

    def __init__(self, run: Path):
        self._file = run / JOURNAL_NAME
        self._offset = 0

    def new_rows(self) -> tuple[list[dict[str, Any]], bool]:
        """Complete rows since the last call, a few MiB at most; whether the file began anew."""
        try:
            size = self._file.stat().st_size
            began_anew = size < self._offset
            if began_anew:
                self._offset = 0
            with self._file.open("rb") as stream:
                stream.seek(self._offset)
                piece = stream.read(_MOST_BYTES_AT_ONCE)
        except OSError:  # not there yet, or already a table
            return [], False
        end = piece.rfind(b"\n") + 1
        self._offset += end
        return [row for line in piece[:end].splitlines() if (row := _row(line))], began_anew


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
