"""The segments of a stream, and which of them answers a query: chosen here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from everview.datasets.cameras import Camera
from everview.models.gauge import Gauge
from everview.pipeline.streaming.segments.covered import Covered

_TIE = 0.25
"""View distances this near to each other are told apart by time: a quarter of a typical distance,
or 14 degrees."""
_STALE, _STALEST = 0.5, 1.5
"""Where things move: what another time costs, as a view distance, for every duration of a segment,
and at most. Measured on crossed views (`benchmarks/moving.py`): 0.25 to 1 and at most 1.5 to 3 give
the same; time alone loses 1.7 to 4 dB, place alone up to 0.4."""


@dataclass(frozen=True, eq=False)
class Segment:
    """number: from 0. gauge: of its state, on the CPU. chunks: the stream's, first and end.
    file: where it is archived, under the run's `segments/`; None for the one that is written.
    moves: of a stream whose segments end by time, since things move in it."""

    number: int
    gauge: Gauge
    covered: Covered
    chunks: tuple[int, int]
    file: str | None = None
    moves: bool = False

    @property
    def unit(self) -> float:
        """World units of one gauge unit."""
        return float(1 / self.gauge.scale[0])

    def to_facts(self) -> dict[str, Any]:
        """For run.json and metrics.json."""
        gauge = self.gauge
        return {
            "segment": self.number,
            "chunks": list(self.chunks),
            "views": self.covered.seen,
            "gauge": gauge_facts(gauge),
            "file": self.file,
            "moves": self.moves,
        }


def gauge_facts(gauge: Gauge) -> dict[str, Any]:
    """A gauge in run.json."""
    return {
        "rotation": gauge.rotation[0],
        "origin": gauge.origin[0],
        "scale": gauge.scale[0],
        "rule": gauge.rule,
    }


@dataclass(frozen=True, eq=False)
class Atlas:
    """All segments in the order of the stream, the last the one that is written. A value."""

    segments: tuple[Segment, ...]

    @property
    def current(self) -> Segment:
        """The one that is written."""
        return self.segments[-1]

    @cached_property
    def duration_s(self) -> float:
        """Seconds that a segment lasts where things move, as a median; 0 where nothing does."""
        known = [each.covered.duration_s for each in self.segments if each.moves]
        return float(np.median([seconds for seconds in known if seconds > 0] or [0.0]))

    @property
    def archived(self) -> tuple[Segment, ...]:
        """The others."""
        return self.segments[:-1]

    def nearest(self, camera: Camera, time_s: float | None) -> Segment:
        """The segment that covers a camera best.

        By place and direction (`Covered.view_distance`); those that tie, by the nearest time that
        they cover; and what is still equal, the later one. Where things move, another time makes a
        segment farther (`_STALE`): one that saw the moment comes before one that saw the place a
        little better, not before the only one that saw it.
        """
        if len(self.segments) == 1:
            return self.segments[0]
        apart = [each.covered.view_distance(camera, each.unit) for each in self.segments]
        if time_s is not None and self.duration_s:
            apart = [
                far + min(_STALE * each.covered.time_distance(time_s) / self.duration_s, _STALEST)
                for far, each in zip(apart, self.segments, strict=True)
            ]
            return self.segments[min(range(len(apart)), key=lambda i: (apart[i], -i))]
        least = min(apart)
        tied = [i for i, value in enumerate(apart) if value <= least + _TIE]
        if time_s is None:
            return self.segments[min(tied, key=lambda i: (apart[i], -i))]
        late = {i: self.segments[i].covered.time_distance(time_s) for i in tied}
        return self.segments[min(tied, key=lambda i: (late[i], apart[i], -i))]


def distance_from_origin(cameras: Sequence[Camera], gauge: Gauge) -> float:
    """Median distance of the cameras from the gauge's origin, in gauge units."""
    origin, scale = gauge.origin[0].cpu().numpy(), float(gauge.scale[0])
    return float(np.median([np.linalg.norm(c.centre - origin) for c in cameras]) * scale)
