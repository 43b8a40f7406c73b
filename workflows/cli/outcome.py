"""What a verb hands back, and how it is shown: text for people, one JSON value for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True)
class Outcome:
    """The result of a verb.

    result: plain data for --json. text: the same for people. run: the run directory, said last.
    exit_code: 0, or the code of a verb that reports rather than raises (`doctor`).
    """

    result: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    run: Path | None = None
    exit_code: int = 0

    def as_json(self) -> str:
        place = {} if self.run is None else {"run": str(self.run)}
        return to_json({**place, "exit_status": self.exit_code, **self.result})

    def as_text(self) -> str:
        parts = [self.text.rstrip("\n")] if self.text else []
        return "\n".join(parts + ([str(self.run)] if self.run is not None else []))


def to_json(value: Mapping[str, Any]) -> str:
    """One line of strict JSON."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, default=str)


def table(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Left-aligned columns as plain text, the same on a terminal and in a file."""
    cells = [[str(cell) for cell in row] for row in ([header] if header else []) + list(rows)]
    if not cells:
        return ""
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(len(cells[0]))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in cells
    ]
    if header:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


@contextmanager
def stdout_for_result(only_json: bool) -> Iterator[IO[str]]:
    """The stream the result goes to. With `only_json`, all that is written to stdout meanwhile,
    by libraries in C too, goes to stderr, so that stdout holds the one value."""
    if not only_json:
        yield sys.stdout
        return
    try:
        real = os.dup(sys.stdout.fileno())
    except (OSError, ValueError):  # not a file, as under a test's capture
        yield sys.stdout
        return
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), 1)
    try:
        with os.fdopen(os.dup(real), "w", encoding="utf-8") as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)
