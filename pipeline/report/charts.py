"""Line charts as plain geometry, for a template to draw as SVG.

The template writes the elements, so that every label goes through its escaping.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 14, 30
_MAX_POINTS = 400


@dataclass(frozen=True)
class Line:
    """A named curve: SVG path data, and what a pointer over the chart reads out."""

    label: str
    path: str
    colour: int


@dataclass(frozen=True)
class Tick:
    """A place on an axis, pixels, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """title, what is along x, lines, ticks, and `points`: JSON of [x px, text] for the read-out."""

    title: str
    note: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Series:
    """A curve to draw; y may hold None or NaN where nothing was measured."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str,
    unit: str,
    note: str = "",
    from_zero: bool = False,
    log: bool = False,
    least_span: float = 0.0,
) -> Chart | None:
    """A chart of one or more curves over a common axis; None when fewer than two points exist.

    from_zero: the y axis starts at 0. log: logarithmic y axis, for positive values.
    least_span: the y axis covers at least this much, so that noise isn't blown up to a story.
    """
    clean = [_clean(one, log) for one in series]
    clean = [(label, x, y) for label, x, y in clean if len(x) >= 2]
    if not clean:
        return None
    xs = np.concatenate([x for _, x, _ in clean])
    ys = np.concatenate([y for _, _, y in clean])
    low, high = float(ys.min()), float(ys.max())
    low = min(low, 0.0) if from_zero and not log else low
    spare = max(0.0, least_span - (high - low)) / 2
    low, high = low - spare, high + spare
    if high - low < 1e-12 * max(abs(high), 1.0):
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    y_ticks = _log_ticks(low, high) if log else round_ticks(low, high, 5)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    left, right = float(xs.min()), float(xs.max())

    def place_x(x: float) -> float:
        share = (x - left) / ((right - left) or 1.0)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def place_y(y: float) -> float:
        share = (y - low) / ((high - low) or 1.0)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)

    def shown(y: float) -> str:
        return f"{number(10**y if log else y)} {unit}".rstrip()

    lines, points = [], []
    for index, (label, x, y) in enumerate(clean):
        places = [(place_x(a), place_y(b)) for a, b in zip(x, y, strict=True)]
        path = "M" + " L".join(f"{a:g},{b:g}" for a, b in places)
        lines.append(Line(label, path, index % 5))
        points += [
            [*place, f"{label}: {shown(b)} at {x_label} {number(a)}"]
            for place, a, b in zip(places, x.tolist(), y.tolist(), strict=True)
        ]
    return Chart(
        title=title,
        note=note,
        x_label=x_label,
        lines=tuple(lines),
        x_ticks=_labelled(
            [t for t in round_ticks(left, right, 6) if left <= t <= right], place_x, ""
        ),
        y_ticks=tuple(Tick(place_y(t), shown(t)) for t in y_ticks)
        if log
        else _labelled(y_ticks, place_y, unit),
        points=json.dumps(points),
    )


def _labelled(values: list[float], place: Callable[[float], float], unit: str) -> tuple[Tick, ...]:
    """Ticks with as many decimals as their distance needs."""
    step = min((b - a for a, b in itertools.pairwise(values)), default=1.0)
    decimals = next((d for d in range(9) if abs(step - round(step, d)) < 1e-3 * step), 9)
    return tuple(Tick(place(v), f"{v:,.{decimals}f} {unit}".rstrip()) for v in values)


def _clean(series: Series, log: bool) -> tuple[str, np.ndarray, np.ndarray]:
    """Finite points, thinned to at most _MAX_POINTS by averaging neighbours."""
    x = np.asarray(series.x, np.float64)
    y = np.array([np.nan if v is None else float(v) for v in series.y])
    known = np.isfinite(x) & np.isfinite(y)
    if log:
        known &= np.where(known, y, 0) > 0
    x, y = x[known], y[known]
    y = np.log10(y) if log else y
    if len(x) > _MAX_POINTS:
        groups = np.array_split(np.arange(len(x)), _MAX_POINTS)
        x = np.array([x[g].mean() for g in groups])
        y = np.array([y[g].mean() for g in groups])
    return series.label, x, y


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers that cover [low, high], about `count` of them."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if span / (m * power) <= count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Exponents for a logarithmic axis: decades, or 1-2-5 where few decades are covered."""
    exponents = range(math.floor(low), math.ceil(high) + 1)
    if high - low > 2:
        return [float(e) for e in exponents]
    fine = [e + math.log10(m) for e in exponents for m in (1, 2, 5)]
    below = [t for t in fine if t <= low] or [low]
    above = [t for t in fine if t >= high] or [high]
    return [t for t in fine if below[-1] <= t <= above[0]]


def number(value: float) -> str:
    """A number for people: three significant digits, no exponent where it can be helped."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(digits, 4)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
