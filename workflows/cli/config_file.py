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
    kind: type, default: Any, values: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], list[str]]:
    """Split a mapping into positional values by field name and command-line words for the rest.

    default: a value of `kind` that the words will be applied to, or None. tyro then checks the
    types, so that a file and a flag can't differ in what they accept; what equals the default is
    not said. Raises UsageError for a key that `kind` doesn't have, with the nearest one.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    positional = {
        name: value for name, value in values.items() if _is_positional(hints.get(name))
    }  # fmt: skip
    others = {name: value for name, value in values.items() if name not in positional}
    defaults = {
        field.name: _default_of(field) if default is None else getattr(default, field.name)
        for field in dataclasses.fields(kind)
    }
    return positional, list(_words(defaults, others, path, ""))


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _words(
    defaults: Mapping[str, Any], values: Mapping[str, Any], path: Path, prefix: str
) -> Iterator[str]:
    """Words that turn `defaults` into `values`, of one level of the configuration and below."""
    for name, value in values.items():
        if name not in defaults:
            near = difflib.get_close_matches(str(name), list(defaults), n=1, cutoff=0.4)
            hint = f"did you mean `{prefix}{near[0]}`?" if near else f"known: {', '.join(defaults)}"
            raise UsageError(f"--config {path}: there is no key `{prefix}{name}`; {hint}")
        yield from _words_of(defaults[name], value, path, f"{prefix}{name}")


def _words_of(default: Any, value: Any, path: Path, dotted: str) -> Iterator[str]:
    flag = "--" + dotted.replace("_", "-")
    below = _parts(default)
    if below and isinstance(value, list) and len(value) == len(below):
        value = dict(zip(below, value, strict=True))
    if isinstance(value, Mapping):
        if not below:
            raise UsageError(f"--config {path}: `{dotted}` takes one value, not keys and values")
        yield from _words(below, value, path, f"{dotted}.")
    elif value == default or (isinstance(value, list) and value == _as_lists(default)):
        return
    elif isinstance(value, bool) and isinstance(default, bool):
        head, _, last = flag.removeprefix("--").rpartition(".")
        yield flag if value else f"--{head}{'.' if head else ''}no-{last}"
    elif isinstance(value, list):
        yield from (flag, *map(str, value))
    else:
        yield from (flag, str(value))


def _parts(default: Any) -> dict[str, Any]:
    """What lies below a nested default, by key: fields, or places in a tuple of dataclasses."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        return {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    if isinstance(default, tuple) and default and dataclasses.is_dataclass(default[0]):
        return {str(place): item for place, item in enumerate(default)}
    return {}


def _as_lists(value: Any) -> Any:
    """Tuples as the lists that YAML and JSON read them back as."""
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _is_positional(hint: Any) -> bool:
    import tyro

    return hint is not None and tyro.conf.Positional in getattr(hint, "__metadata__", ())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
