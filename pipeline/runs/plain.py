"""Any configuration or measurement as plain JSON data, with secrets taken out."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

REDACTED = "[redacted]"

# Parts of a name that make its text a secret. `tokens` (a count) is not `token` (a credential).
_SECRET_PARTS = {"token", "secret", "password", "passwd", "passphrase", "credential", "credentials",
                 "authorization", "cookie", "apikey"}  # fmt: skip
_SECRET_PAIRS = {("api", "key"), ("access", "key"), ("private", "key"), ("secret", "key")}
_URL_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
_URL_QUERY = re.compile(r"(?i)([?&][^=&#\s]*(?:token|key|secret|password|signature|sig)=)[^&#\s]+")
# A value shorter than this occurs by chance in ordinary text.
_SHORTEST_SECRET = 6


def as_plain(value: Any) -> Any:
    """`value` as dicts, lists, strings, finite numbers, booleans and None.

    Dataclasses become dicts, paths and enums strings, arrays and tensors nested lists, and numbers
    that JSON can't hold (NaN, infinities) None. Anything else becomes its repr.
    """
    if value is None or isinstance(value, str | bool | int):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, PurePath | torch.device | torch.dtype):
        return str(value)
    if isinstance(value, torch.Tensor):
        return as_plain(value.detach().cpu().tolist())
    if isinstance(value, np.ndarray | np.generic):
        return as_plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(as_plain(item) for item in value)
    return repr(value)


def is_secret_name(name: str) -> bool:
    """Whether text under this key, flag or environment variable must not be written down."""
    parts = [p for p in re.split(r"[^a-z0-9]+", name.lower()) if p]
    pairs = set(itertools.pairwise(parts))
    return bool(_SECRET_PARTS & set(parts) or _SECRET_PAIRS & pairs)


def known_secrets() -> tuple[str, ...]:
    """Values of the environment variables that are secrets by name, longest first."""
    values = {v for k, v in os.environ.items() if is_secret_name(k) and len(v) >= _SHORTEST_SECRET}
    return tuple(sorted(values, key=len, reverse=True))


def redact(value: Any, secrets: tuple[str, ...] | None = None) -> Any:
    """Plain data with secrets replaced by `[redacted]`: by key, by known value, in URLs."""
    secrets = known_secrets() if secrets is None else secrets
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, REDACTED)
        value = _URL_LOGIN.sub(f"{REDACTED}@", value)
        return _URL_QUERY.sub(rf"\1{REDACTED}", value)
    if isinstance(value, dict):
        return {
            key: REDACTED
            if isinstance(item, str) and item and is_secret_name(key)
            else redact(item, secrets)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [redact(item, secrets) for item in value]
    return value


def redact_command(command: list[str]) -> list[str]:
    """A command line whose secret flags (`--token X`, `--token=X`) have lost their values."""
    clean: list[str] = []
    hide_next = False
    for word in command:
        flag, equals, _ = word.partition("=")
        secret_flag = flag.startswith("--") and is_secret_name(flag)
        if hide_next and not word.startswith("--"):
            clean.append(REDACTED)
        elif secret_flag and equals:
            clean.append(f"{flag}={REDACTED}")
        else:
            clean.append(redact(word))
        hide_next = secret_flag and not equals
    return clean
