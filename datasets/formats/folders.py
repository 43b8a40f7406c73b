"""Looking through folders of images: natural order, whitelisted suffixes, hidden files left out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from everview.datasets.errors import DataError
from everview.datasets.guards import IMAGE_SUFFIXES

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which `frame9` comes before `frame10`."""
    parts = _DIGITS.split(name)
    return [
        (0, int(part[:4000]), "") if part.isdecimal() and part.isascii() else (1, 0, part)
        for part in parts
    ]


def naturally(names: Iterable[str]) -> list[str]:
    """Names in natural order; ties (`01`, `1`) by plain order."""
    return sorted(sorted(names), key=natural_key)


def image_names(folder: Path) -> list[str]:
    """Names of the image files directly in `folder`, in natural order."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} can't be listed: {error.strerror}") from None
    return naturally(
        entry.name
        for entry in entries
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
    )
