"""How far a long verb is: a bar on a terminal, a line now and then elsewhere, always on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from everview.pipeline.streaming.progress import Progress

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def showing_progress(is_quiet: bool) -> Iterator[Progress]:
    """What the pipeline reports to while the block runs."""
    if is_quiet or not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield Bars(bars)


class Lines:
    """One log line at the start and end of a stage and every ten seconds between."""

    def __init__(self) -> None:
        self._stage = ""
        self._said_at = 0.0

    def step(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        is_new = stage != self._stage
        if is_new or done == total or now - self._said_at >= _SECONDS_BETWEEN_LINES:
            self._stage, self._said_at = stage, now
            log.info("%s: %d%s", stage, done, "" if total is None else f" of {total}")

    def say(self, line: str) -> None:
        log.info("%s", line)


class Bars:
    """One bar a stage."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def step(self, stage: str, done: int, total: int | None) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False)
