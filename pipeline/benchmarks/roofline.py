"""The roofline picture of `everview bench kernels`: what bounds each row, and how far off it is.

Arithmetic intensity is useful operations over the fewest bytes that the work can move: inputs read
once, results written once, tokens in bfloat16, rates and weights in float32. No row can lie above
the lower of two ceilings: intensity times the speed of a copy, and the speed of a large product.

Shapes: N = batch x heads, L tokens, D head width, F hidden width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from everview.pipeline.report.charts import number

COPY_TB_S = 3.0
"""Measured on an H100 80GB, read and write together."""
FORMULATIONS = {
    "ours": "#b4501f",
    "published, compiled": "#2a6f8f",
    "published, compiled, as a graph": "#9db8c4",
}
"""Those that are drawn, by colour."""
_MARKS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "M-4,-4h8v8h-8z",
    "M0,-5.5l5.5,5.5l-5.5,5.5l-5.5,-5.5z",
    "M0,-5l5,9h-10z",
)
"""Shapes' marks: circle, square, diamond, triangle."""
_PANEL, _HEIGHT, _LEFT, _TOP, _BOTTOM = 380, 400, 58, 64, 96
_PLOT_WIDTH, _PLOT_HEIGHT = _PANEL - _LEFT - 14, _HEIGHT - _TOP - _BOTTOM
_SHAPE = re.compile(r"(\d+) x (\d+) x (\d+), (\d+)")


@dataclass(frozen=True)
class Point:
    """One row. op: "forward", ...; shape: "N x D x F"; intensity in operations a byte."""

    op: str
    formulation: str
    shape: str
    length: int
    intensity: float
    tflops: float


def intensity(n: int, width: int, hidden: int, length: int, backward: bool = False) -> float:
    """Operations a byte of update and read: 18 N L D F over queries, keys, values and rates in,
    the read out, weights in and out. backward: three times that, and over the read's gradient in
    and the gradients of all inputs out as well."""
    tokens, weights = n * length, 3 * n * width * hidden
    operations, size = 18 * tokens * width * hidden, tokens * (8 * width + 12) + 8 * weights
    if backward:
        operations, size = 3 * operations, size + tokens * (8 * width + 12) + 4 * weights
    return operations / size


def points(rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """The rows of a `bench.json` that are drawn."""
    found = []
    for row in rows:
        op, _, formulation = row["op"].partition(": ")
        parsed = _SHAPE.fullmatch(row["shape"])
        if parsed is None or formulation not in FORMULATIONS:
            continue
        n, width, hidden, length = map(int, parsed.groups())
        at = intensity(n, width, hidden, length, "backward" in op)
        shape = f"{n} x {width} x {hidden}"
        found.append(Point(op, formulation, shape, length, at, row["tflops"]))
    return found


def roofline(report: Mapping[str, Any], copy_tb_s: float = COPY_TB_S) -> str:
    """An SVG of a kernel benchmark's JSON (rows, card, ceiling_tflops): a panel for each op, a
    point for each row of FORMULATIONS."""
    drawn = points(report["rows"])
    ops = list(dict.fromkeys(point.op for point in drawn))
    shapes = list(dict.fromkeys(point.shape for point in drawn))
    axes = _Axes.around(drawn, report["ceiling_tflops"], copy_tb_s)
    marks = {shape: _MARKS[place % len(_MARKS)] for place, shape in enumerate(shapes)}
    panels = []
    for place, op in enumerate(ops):
        some = [point for point in drawn if point.op == op]
        marked = [_drawn(point, axes, marks[point.shape]) for point in some]
        inner = "\n".join([*axes.frame(op), *marked, *_lengths(some, axes)])
        panels.append(f'<g transform="translate({place * _PANEL},0)">\n{inner}\n</g>')
    width = max(1, len(ops)) * _PANEL
    title = f"update + read on {report['card']}"
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" width="{width}" '
        f'height="{_HEIGHT}" role="img" aria-label="{escape(title)}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{width}" height="{_HEIGHT}" fill="#fbfaf7"/>',
        _text(_LEFT, 22, title, size=15),
        *panels,
        *_legend(marks),
        "</svg>\n",
    ))  # fmt: skip


@dataclass(frozen=True)
class _Axes:
    """Logarithmic axes in pixels of a panel, and both ceilings."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    peak: float
    copy_tb_s: float

    @staticmethod
    def around(drawn: Sequence[Point], peak: float, copy_tb_s: float) -> _Axes:
        ridge = peak / copy_tb_s
        at = [point.intensity for point in drawn] or [ridge]
        low = min([point.tflops for point in drawn] or [peak])
        return _Axes(
            (min(ridge, *at) / 2, max(ridge, *at) * 1.5),
            (min(low, peak / 20) / 2, peak * 1.6),
            peak,
            copy_tb_s,
        )

    def x(self, value: float) -> float:
        low, high = map(math.log, self.x_range)
        return round(_LEFT + _PLOT_WIDTH * (math.log(value) - low) / (high - low), 1)

    def y(self, value: float) -> float:
        low, high = map(math.log, self.y_range)
        return round(_TOP + _PLOT_HEIGHT * (high - math.log(value)) / (high - low), 1)

    def frame(self, op: str) -> list[str]:
        """Grid, tick texts, ceilings and the panel's name."""
        left, right, bottom = _LEFT, _LEFT + _PLOT_WIDTH, _TOP + _PLOT_HEIGHT
        lines = [_text(left, _TOP - 14, op, size=13)]
        for tick in _ticks(*self.x_range):
            x = self.x(tick)
            lines.append(_line((x, _TOP), (x, bottom), "#e3e0d8"))
            lines.append(_text(x, bottom + 15, number(tick), "middle"))
        for tick in _ticks(*self.y_range):
            y = self.y(tick)
            lines.append(_line((left, y), (right, y), "#e3e0d8"))
            lines.append(_text(left - 6, y + 4, number(tick), "end"))
        ridge, first = self.peak / self.copy_tb_s, self.x_range[0]
        corner = (self.x(ridge), self.y(self.peak))
        lines.append(_line((left, self.y(first * self.copy_tb_s)), corner, "#1b1d22"))
        lines.append(_line(corner, (right, corner[1]), "#1b1d22"))
        ceiling = f"product {number(self.peak)} TFLOP/s; copy {number(self.copy_tb_s)} TB/s"
        lines.append(_text(right, corner[1] - 5, ceiling, "end"))
        lines.append(
            _text((left + right) / 2, bottom + 31, "operations a byte (tokens above)", "middle")
        )
        return [*lines, _text(left - 6, _TOP - 2, "TFLOP/s", "end")]


def _drawn(point: Point, axes: _Axes, mark: str) -> str:
    x, y = axes.x(point.intensity), axes.y(point.tflops)
    said = (
        f"{point.op}: {point.formulation}, {point.shape}, {point.length:,} tokens: "
        f"{number(point.tflops)} TFLOP/s at {number(point.intensity)} operations a byte"
    )
    return (
        f'<path d="{mark}" transform="translate({x},{y})" fill="{FORMULATIONS[point.formulation]}" '
        f'fill-opacity="0.85"><title>{escape(said)}</title></path>'
    )


def _lengths(some: Sequence[Point], axes: _Axes) -> list[str]:
    """The tokens of each column of points, at the bottom, every other one a line higher."""
    columns = sorted({(axes.x(point.intensity), point.length) for point in some})
    lines = []
    for place, (x, length) in enumerate(columns):
        text = f"{length >> 10}K" if length % 1024 == 0 else str(length)
        y = _TOP + _PLOT_HEIGHT - 5 - place % 2 * 11
        lines.append(_text(x, y, text, "middle", size=9))
    return lines


def _legend(marks: Mapping[str, str]) -> list[str]:
    """Colours of formulations, marks of shapes, in rows below the panels."""
    entries = [(name, _MARKS[0], colour) for name, colour in FORMULATIONS.items()]
    entries += [(f"{shape} (N x D x F)", mark, "#5d626d") for shape, mark in marks.items()]
    lines = []
    for place, (name, mark, colour) in enumerate(entries):
        x, y = _LEFT + 6 + place // 3 * 230, _HEIGHT - 44 + place % 3 * 16
        lines.append(f'<path d="{mark}" transform="translate({x},{y})" fill="{colour}"/>')
        lines.append(_text(x + 10, y + 4, name))
    return lines


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... within a range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**e for e in decades for m in (1, 2, 5) if low <= m * 10.0**e <= high]


def _line(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" fill="#1b1d22">'
        f"{escape(text)}</text>"
    )
