"""Command lines to frozen dataclasses: the flags every verb has, and the one call to tyro."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import tyro

from everview.workflows.cli.config_file import read_config, words_from_config, words_without_config


@dataclass(frozen=True, kw_only=True)
class CommonFlags:
    """What every verb understands. How a run is shown is no part of what it computes."""

    out: Path | None = None
    """Run directory; the same command again continues an unfinished run there."""
    fresh: bool = False
    """Start over in --out, removing the run that is there."""
    config: Path | None = None
    """YAML file with flags as keys, or the run.json of a run to repeat; flags given here win."""
    json: bool = False
    """Print one JSON value on stdout; everything else goes to stderr."""
    quiet: bool = False
    """Only warnings and the result."""
    debug: bool = False
    """Show tracebacks and debug messages."""


A = TypeVar("A", bound=CommonFlags)


def parse(kind: type[A], words: Sequence[str], prog: str) -> A:
    """`words` as a value of the dataclass `kind`; its docstring is the help text.

    Exits with 2 on words that don't fit (the nearest flag is named) and with 0 after --help;
    raises UsageError for a configuration file that can't be used.
    """
    path, rest = words_without_config(words)
    default = None
    if path is not None:
        positional, flags = words_from_config(kind, read_config(path), path)
        rest = [*flags, *rest]
        default = kind(**positional) if positional else None
    parsed = tyro.cli(
        kind,
        prog=prog,
        description=inspect.cleandoc(kind.__doc__ or ""),
        args=list(rest),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.ConsolidateSubcommandArgs),
        **({} if default is None else {"default": default}),
    )
    return replace(parsed, config=None)
