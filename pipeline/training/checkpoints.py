"""Checkpoints that count only when they verify.

A checkpoint is a directory `step-NNNNNNNN.<attempt>` that holds safetensors, JSON and a
`MANIFEST.json` with the size and BLAKE2b-128 hash of each. It is written under a name that ends
in `.tmp`, synchronised to disk, and renamed: the rename is the commit. Reading tries the newest
first; one that does not verify is renamed to `*.bad`, named in a warning, and the one before it
is used. Nothing committed yet is a fresh start; commits of which none verifies are an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from everview.pipeline.errors import InputRejected

SCHEMA = 1
MANIFEST = "MANIFEST.json"
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Checkpoint:
    """What one commit holds: tensors by file and name, and facts that fit JSON."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]


def commit(directory: Path, checkpoint: Checkpoint, keep: int = 3) -> Path:
    """Write `checkpoint` below `directory` as one unit; keep the newest `keep`. Its path.

    An OSError (a full disk) leaves earlier commits untouched and no new one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = f"step-{checkpoint.step:08d}.{uuid.uuid4().hex[:12]}"
    draft = directory / f"{name}.tmp"
    draft.mkdir()
    try:
        for file, tensors in checkpoint.tensors.items():
            # a copy: safetensors refuses tensors that share storage or are strided
            plain = {
                key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()
            }
            save_file(plain, draft / f"{file}.safetensors")
        _write_json(draft / "facts.json", dict(checkpoint.facts))
        manifest = {
            "schema": SCHEMA,
            "step": checkpoint.step,
            "files": {
                path.name: {"bytes": path.stat().st_size, "blake2b_128": _hash(path)}
                for path in sorted(draft.iterdir())
            },
        }
        _write_json(draft / MANIFEST, manifest)
        for path in (*draft.iterdir(), draft):
            _synchronise(path)
        final = directory / name
        draft.rename(final)
        _synchronise(directory)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _purge(directory, keep)
    return final


def newest(directory: Path, warn: Warn) -> Checkpoint | None:
    """The newest checkpoint below `directory` that verifies; None when nothing was committed.

    Raises InputRejected when there are commits and none of them verifies.
    """
    for leftover in directory.glob("step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    committed = _committed(directory)
    for path in committed:
        try:
            return _read(path)
        except InputRejected as error:
            aside = path.with_name(f"{path.name}.bad")
            path.rename(aside)
            warn(f"{error}; set aside as {aside.name}")
    if committed or list(directory.glob("step-*.bad")):
        raise InputRejected(
            f"no checkpoint in {directory} verifies: restore one, or start over with --fresh"
        )
    return None


def _read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, sizes checked before hashes and hashes before contents."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        listed = manifest["files"]
        if manifest["schema"] != SCHEMA:
            raise InputRejected(f"checkpoint {path.name} has schema {manifest['schema']!r}")
        for name, entry in listed.items():
            file = path / name
            if file.parent != path or not file.is_file():
                raise InputRejected(f"checkpoint {path.name} lacks its file {name}")
            if file.stat().st_size != entry["bytes"]:
                raise InputRejected(f"checkpoint {path.name}: {name} has the wrong size")
        for name, entry in listed.items():
            if _hash(path / name) != entry["blake2b_128"]:
                raise InputRejected(f"checkpoint {path.name}: {name} has the wrong hash")
        facts = json.loads((path / "facts.json").read_text())
        tensors = {
            Path(name).stem: load_file(path / name)
            for name in listed
            if name.endswith(".safetensors")
        }
        return Checkpoint(int(manifest["step"]), tensors, facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputRejected(f"checkpoint {path.name} can't be read ({error})") from error


def _committed(directory: Path) -> list[Path]:
    """Committed checkpoints, newest first: by step, then by time of writing."""
    found = [
        path
        for path in directory.glob("step-*")
        if path.is_dir() and not path.name.endswith((".tmp", ".bad"))
    ]
    return sorted(found, key=lambda path: (path.name[:13], path.stat().st_mtime_ns), reverse=True)


def _purge(directory: Path, keep: int) -> None:
    for path in _committed(directory)[keep:]:
        shutil.rmtree(path, ignore_errors=True)  # an undeleted old checkpoint is no reason to stop


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def _synchronise(path: Path) -> None:
    """Flush a file's or directory's contents to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
