"""Writing files so that a reader sees the old content or the new one, and never a part.

Write beside the target, flush to the disk, rename over it, flush the directory.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from everview.pipeline.errors import EnvironmentUnfit, TryAgain


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into the sentence and exit code a user can act on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _errno(error)
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise TryAgain(f"no space left while writing {path}; free some and try again") from None
        if number in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise EnvironmentUnfit(f"{path} can't be written: {os.strerror(number)}") from None
        raise


def _errno(error: OSError | SafetensorError) -> int:
    """The system's number of an error; safetensors tells it in words alone."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"os error (\d+)", str(error))
    return int(told[1]) if told else 0


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path in the same folder; on success it takes the place of `path`.

    On an exception the target is untouched and the temporary file is gone.
    Raises TryAgain when the disk is full, EnvironmentUnfit when it can't be written to.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}")
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable (a no-op where folders can't be opened)."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write plain JSON data (see `as_plain`) whole or not at all; NaN is a ValueError."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")
