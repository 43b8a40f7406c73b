"""Rows of `everview bench scaling`: one that fails is named and the others go on."""

from __future__ import annotations

import datetime
import json
import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from everview.pipeline.errors import EnvironmentUnfit, EverviewError, UsageError
from everview.pipeline.runs import library_versions
from everview.pipeline.runs.atomic import write_json
from everview.pipeline.runs.plain import as_plain
from everview.pipeline.runs.provenance import code_identity, describe_device, describe_host

log = logging.getLogger(__name__)

COLUMNS = ("what", "case", "figure", "goal", "met", "ms", "note")


@dataclass(frozen=True)
class Goal:
    """What a figure is meant to reach. unit: `x`, a ratio, or `%`, a share."""

    value: float
    at_most: bool
    unit: str

    def met(self, figure: float) -> bool:
        """Whether the figure reaches it; NaN never does."""
        return figure <= self.value if self.at_most else figure >= self.value

    def text(self) -> str:
        """In words."""
        return f"{'<=' if self.at_most else '>='} {shown(self.value, self.unit)}"


def shown(figure: float, unit: str) -> str:
    """A figure with its unit."""
    if unit == "%":
        return f"{100 * figure:.2f} %"
    return f"{figure:.3f}x" if unit == "x" else f"{figure:.1e}"


@dataclass(frozen=True)
class Row:
    """One figure. ms: median milliseconds of a step (or what the case says) by side. facts: what
    else was found. failure: why there is no figure, or why a form of it is missing."""

    what: str
    case: str
    figure: float | None = None
    unit: str = "x"
    goal: Goal | None = None
    ms: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is; None without a figure or a goal."""
        if self.figure is None or self.goal is None:
            return None
        return self.goal.met(self.figure)

    def cells(self) -> tuple[str, ...]:
        """As `COLUMNS`."""
        figure = "" if self.figure is None else shown(self.figure, self.unit)
        met = {None: "", True: "yes", False: "no"}[self.met]
        ms = ", ".join(f"{name} {value:.1f}" for name, value in self.ms.items())
        goal = "" if self.goal is None else self.goal.text()
        return self.what, self.case, figure, goal, met, ms, (self.failure or "")[:200]

    def as_json(self) -> dict[str, Any]:
        """With whether the goal is met; numbers that aren't finite become None."""
        return {**as_plain(self), "met": self.met}


@dataclass(frozen=True)
class Setting:
    """Where and how long is measured. seconds: for all rows together, which share what is left.
    small: shapes that only show that it runs. shards: a prepared set of the feed's size."""

    device: str
    ranks: int
    seconds: float
    small: bool = False
    shards: tuple[str, ...] = ()

    @staticmethod
    def here(
        device: str, ranks: int | None, seconds: float, shards: Sequence[str], small: bool = False
    ) -> Setting:
        """Of this machine. device: `auto` is a GPU where there is one. ranks: None stands for all
        GPUs, or two on the CPU. Raises EnvironmentUnfit where ranks have no GPU each, UsageError
        for numbers that can't be."""
        if (ranks is not None and ranks < 1) or seconds <= 0:
            raise UsageError(f"{ranks} ranks and {seconds:g} seconds must both be positive")
        cards = 0 if device == "cpu" else torch.cuda.device_count()
        on_gpu = device == "cuda" or cards > 0
        if on_gpu and cards < (ranks or 1):
            raise EnvironmentUnfit(
                f"{ranks or 1} ranks need a GPU each, and there are {cards}; give fewer, or "
                "--device cpu"
            )
        chosen = ranks or (cards if on_gpu else 2)
        return Setting("cuda" if on_gpu else "cpu", chosen, seconds, small, tuple(shards))

    @property
    def on_gpu(self) -> bool:
        """Whether ranks have a GPU each."""
        return self.device == "cuda"


Benchmark = Callable[[Setting, float], Iterator[Row]]
"""Rows of a setting, to be done at a time in seconds since the epoch."""


@dataclass(frozen=True)
class Entry:
    """A benchmark by name; share: of the time, relative to the others."""

    name: str
    measure: Benchmark
    share: float


def run_benchmarks(
    entries: Sequence[Entry], setting: Setting, out: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Every benchmark in turn; the report as JSON, also in the file `out` after every row."""
    ends = time.time() + setting.seconds
    report = {"rows": [], **circumstances(setting)}
    for place, entry in enumerate(entries):
        left = sum(other.share for other in entries[place:])
        until = time.time() + max(0.0, ends - time.time()) * entry.share / left
        for row in _rows(entry, setting, until):
            report["rows"].append(row.as_json())
            report["load_after"] = round(os.getloadavg()[0], 2)
            say(" | ".join(cell for cell in row.cells() if cell))
            if out is not None:
                write_json(out, report)
    return report


def _rows(entry: Entry, setting: Setting, until: float) -> Iterator[Row]:
    try:
        yield from entry.measure(setting, until)
    except Exception as error:  # the other benchmarks are worth having without this one
        log.debug("%s", traceback.format_exc())
        yield Row(entry.name, "", failure=one_line(error))


def one_line(error: BaseException) -> str:
    """What went wrong: of our own errors the sentence, of others their last line too."""
    if isinstance(error, EverviewError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def circumstances(setting: Setting) -> dict[str, Any]:
    """Machine, versions, date."""
    return {
        "setting": as_plain(setting),
        "card": describe_device(setting.device)["name"],
        "cards": torch.cuda.device_count() if setting.on_gpu else 0,
        "host": describe_host(),
        "versions": library_versions(),
        "code": code_identity()["revision"],
        "date": datetime.date.today().isoformat(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The report's rows as text."""
    rows = []
    for found in report["rows"]:
        values = {name: value for name, value in found.items() if name != "met"}
        goal = values.pop("goal")
        rows.append(Row(**values, goal=None if goal is None else Goal(**goal)).cells())
    return rows


class Findings:
    """What a process has found so far, as JSON lines in a file: kept when it doesn't end well."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, **values: Any) -> None:
        """Write one down."""
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")
