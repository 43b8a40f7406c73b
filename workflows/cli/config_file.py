"""`--config FILE`: a YAML mapping of the same shape as the flags, read safely, checked by key."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from everview.pipeline.errors import UsageError

_MAX_BYTES = 1 << 20


def words_without_config(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Take `--config FILE` (or `--config=FILE`) out of a command line."""
    path, rest = None, []
    remaining = iter(words)
    for word in remaining:
        if word == "--config":
            name = next(remaining, None)
            if name is None:
                raise UsageError("--config needs a file; name a YAML file or a run.json")
            path = Path(name)
        elif word.startswith("--config="):
            path = Path(word.removeprefix("--config="))
        else:
            rest.append(word)
    return path, rest


def read_config(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file; of a `run.json`, its resolved configuration."""
    import yaml

    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--config {path} can't be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise UsageError(f"--config {path} is larger than 1 MiB; that is no configuration")
    try:
        value = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--config {path} is not YAML: {_first_line(error)}") from error
    if isinstance(value, Mapping) and value.get("program") == "everview":
        value = value.get("config")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(
            f"--config {path} holds a {type(value).__name__}; expected keys and values"
        )
    return value


def words_from_config(
    kind: type, values: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], list[str]]:
    """Split a mapping into positional values by field name and command-line words for the rest.

    tyro then checks the types, so that a file and a flag can't differ in what they accept.
    Raises UsageError for a key that `kind` doesn't have, with the nearest one.
    """
    positional = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for name, value in values.items():
        if name in hints and _is_positional(hints[name]):
            positional[name] = value
    others = {name: value for name, value in values.items() if name not in positional}
    return positional, list(_flags(kind, others, path))


def _flags(kind: type, values: Mapping[str, Any], path: Path, prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if name not in fields:
            near = difflib.get_close_matches(str(name), list(fields), n=1, cutoff=0.4)
            hint = f"did you mean `{prefix}{near[0]}`?" if near else f"known: {', '.join(fields)}"
            raise UsageError(f"--config {path}: there is no key `{dotted}`; {hint}")
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hints[name]):
            yield from _flags(hints[name], value, path, f"{dotted}.")
            continue
        flag = "--" + dotted.replace("_", "-")
        if isinstance(value, bool):
            yield from _switch(flag, value, fields[name].default)
        elif isinstance(value, list | tuple):
            yield from (flag, *map(str, value))
        elif isinstance(value, Mapping):
            raise UsageError(f"--config {path}: `{dotted}` takes one value, not keys and values")
        else:
            yield from (flag, str(value))


def _switch(flag: str, value: bool, default: Any) -> Iterator[str]:
    """A switch is only said when it differs from what it is without being said."""
    if not isinstance(default, bool):
        yield from (flag, str(value))
    elif value != default:
        head, _, last = flag.rpartition(".")
        yield (
            flag if value else (f"{head}.no-{last}" if head else f"--no-{last.removeprefix('--')}")
        )


def _is_positional(hint: Any) -> bool:
    import tyro

    return tyro.conf.Positional in getattr(hint, "__metadata__", ())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
