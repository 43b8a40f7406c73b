"""What the benchmarks that are started by `python -m` share: progress, tables, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from everview.pipeline.errors import EverviewError, exit_code_of


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def command(name: str, main: Callable[[], int | None]) -> NoReturn:
    """Run it as a program: errors are one sentence, and the exit codes those of the verbs."""
    try:
        sys.exit(main())
    except EverviewError as error:
        say(f"{name}: {error}")
        sys.exit(exit_code_of(error))
