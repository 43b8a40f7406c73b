"""What a run says while it runs: a progress bar or plain lines, and the curve in metrics.jsonl.

Step results stay on the device until a report is due; fetching them is the only moment at which
the host waits.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from everview.pipeline.tracking import TrackedCurve
from everview.pipeline.training.losses import BANK_MEANS
from everview.pipeline.training.step import StepResult

CURVE = "metrics.jsonl"


class Curve:
    """One JSON object a line, appended; a resumed run drops what lies beyond its checkpoint."""

    def __init__(self, path: Path, step: int, tracked: TrackedCurve | None = None) -> None:
        """tracked: hears every line too."""
        self._path, self._tracked = path, tracked
        kept = [line for line in self.read(path) if line["step"] <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line; it is on its way to the disk when this returns."""
        with self._path.open("a") as file:
            file.write(json.dumps(dict(line)) + "\n")
        if self._tracked is not None:
            self._tracked.line(line)

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """All whole lines (a kill may have cut the last); none where there is no file."""
        if not path.exists():
            return []
        lines = []
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines


class Recent:
    """Results of the steps since the last report, still on the device."""

    def __init__(self) -> None:
        self._results: list[StepResult] = []

    def add(self, result: StepResult) -> None:
        """Remember one step."""
        self._results.append(result)

    def __len__(self) -> int:
        return len(self._results)

    def fetch(self) -> dict[str, float]:
        """Means over the remembered steps, each part where it had a value; then forget them."""
        columns: dict[str, list[Tensor]] = {}
        for result in self._results:
            scalars = {**result.losses, "gradient_norm": result.gradient_norm}
            scalars["skipped"] = 1 - result.accepted
            for name, value in scalars.items():
                columns.setdefault(name, []).append(value.float())
        self._results = []
        if not columns:
            return {}
        means = torch.stack([torch.stack(column).nanmean() for column in columns.values()])
        values = dict(zip(columns, means.tolist(), strict=True))
        without = [name for name in BANK_MEANS if math.isnan(values.get(name, 0.0))]
        return {name: value for name, value in values.items() if name not in without}


class Reporter:
    """Says how far a run is."""

    def __init__(self, stream: TextIO, bar: Any = None) -> None:
        self._stream = stream
        self._bar = bar
        self._task = bar.add_task("training", total=1.0, text="") if bar is not None else None

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def progress(self, line: Mapping[str, Any]) -> None:
        """How far the run is, from a line of the curve."""
        text = (
            f"step {line['step']}  loss {line['loss']:.4f}  rgb {line.get('rgb', math.nan):.5f}  "
            f"norm {line['gradient_norm']:.2f}  {line['ms_per_step']:.0f} ms/step"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=line["progress"], text=text)
        else:
            self.say(f"{line['progress']:6.1%}  {line['elapsed_s']:7.1f} s  {text}")


class Silent(Reporter):
    """What the ranks that don't lead report to."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def say(self, text: str) -> None:
        """Nothing."""


@contextmanager
def reporter(stream: TextIO | None = None) -> Iterator[Reporter]:
    """A progress bar where `stream` (stderr unless given) is a terminal, plain lines elsewhere."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Reporter(stream)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(file=stream)) as bar:
        yield Reporter(stream, bar)
