"""The page's numbers: charts of bounded histories, and what became of the frames."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from everview.pipeline.streaming.sampled import Sampled
from everview.pipeline.viewing.history import History

if TYPE_CHECKING:
    from viser import ViserServer

_COLOURS = ("#2563eb", "#ea580c")
_MOST_COUNTS = 32


@dataclass(frozen=True)
class _Plan:
    """A chart of some of the history's curves; names: curve -> what the legend calls it."""

    title: str
    names: Mapping[str, str]
    across: str = "frame"


_PLANS = (
    _Plan("latency, ms", {"latency_ms": "ms"}),
    _Plan("memory, MiB", {"rss_mib": "process", "state_mib": "state"}),
    _Plan("foreseen, dB", {"residual": "picture", "memory_residual": "memory"}),
    _Plan("retention of the first chunk, dB", {"": "dB"}, "chunk"),
)  # fmt: skip


class Charts:
    """Elements in whatever folder is open when it is made; `update` fills them."""

    def __init__(self, server: ViserServer):
        self._charts = [_empty_chart(server, plan) for plan in _PLANS]
        self._counts = server.gui.add_html("")

    def update(self, history: History, retention: Sampled, counts: Mapping[str, int]) -> None:
        """Show these numbers; a chart without two points stays away."""
        for plan, chart in zip(_PLANS, self._charts, strict=True):
            data = _chart_data(plan, history, retention)
            if data is not None:
                chart.data = data
                chart.visible = True
        self._counts.content = counts_table(counts)


def counts_table(counts: Mapping[str, int]) -> str:
    """An HTML table; a run's files are anybody's, so names are escaped and few."""
    rows = "".join(
        f"<tr><td>{html.escape(str(name)[:40])}</td><td style='text-align:right'>{int(count)}</td>"
        "</tr>"
        for name, count in list(counts.items())[:_MOST_COUNTS]
        if count
    )
    return f"<table style='width:100%;font-size:0.8em;padding:0 0.8em'>{rows}</table>"


def _empty_chart(server: ViserServer, plan: _Plan) -> Any:
    series = [{"label": plan.across}]
    series += [
        {"label": label, "stroke": colour, "width": 1.5}  # type: ignore[dict-item]
        for label, colour in zip(plan.names.values(), _COLOURS, strict=False)
    ]
    return server.gui.add_uplot(
        tuple(np.zeros(2) for _ in series),
        tuple(series),  # type: ignore[arg-type]
        title=plan.title,
        scales={"x": {"time": False, "auto": True}, "y": {"auto": True}},
        height=130,
        visible=False,
    )


def _chart_data(plan: _Plan, history: History, retention: Sampled) -> tuple[np.ndarray, ...] | None:
    """x and one array a series, of one length; None while there are fewer than two points."""
    if plan.across == "chunk":
        curves = [retention.arrays()]
    else:
        curves = [history.curves[name].arrays() for name in plan.names]
    across = np.unique(np.concatenate([places for places, _ in curves]))
    if len(across) < 2:
        return None
    shown = [np.full(len(across), np.nan) for _ in curves]
    for values, (places, known) in zip(shown, curves, strict=True):
        values[np.searchsorted(across, places)] = known
    return across, *shown
