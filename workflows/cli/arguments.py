"""Command lines to frozen dataclasses: the flags every verb has, and the one call to tyro."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from everview.workflows.cli.config_file import read_config, words_from_config, words_without_config

CaptureArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CAPTURE")]
RunArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Switch = tyro.conf.FlagCreatePairsOff[bool]  # off unless said: no --no-... beside it


@dataclass(frozen=True, kw_only=True)
class CommonFlags:
    """What every verb understands. How a run is shown is no part of what it computes."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run directory; the same command again continues an unfinished run there."""
    fresh: Switch = False
    """Start over in --out, removing the run that is there."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """YAML file with flags as keys, or the run.json of a run to repeat; flags given here win."""
    json: Switch = False
    """Print one JSON value on stdout; everything else goes to stderr."""
    quiet: Switch = False
    """Only warnings and the result."""
    debug: Switch = False
    """Show tracebacks and debug messages."""


A = TypeVar("A", bound=CommonFlags)
C = TypeVar("C")


def parse(kind: type[A], words: Sequence[str], prog: str, default: A | None = None) -> A:
    """`words` as a value of the dataclass `kind`; its docstring is the help text.

    default: what the words change; without it the defaults of `kind`. Exits with 2 on words that
    don't fit (the nearest flag is named) and with 0 after --help; raises UsageError for a
    configuration file that can't be used.
    """
    path, rest = words_without_config(words)
    if path is not None:
        positional, flags = words_from_config(kind, default, read_config(path), path)
        rest = [*flags, *rest]
        if default is None and positional:
            default = kind(**positional)
    parsed = tyro.cli(
        kind,
        prog=prog,
        description=inspect.cleandoc(kind.__doc__ or ""),
        args=list(rest),
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.AvoidSubcommands,),
    )
    return replace(parsed, config=None)


def part_of(arguments: CommonFlags, kind: type[C]) -> C:
    """The configuration `kind` whose fields are among the arguments of a verb (its base class)."""
    return kind(**{field.name: getattr(arguments, field.name) for field in fields(kind)})  # type: ignore[arg-type]
