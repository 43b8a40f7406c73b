"""Checkpoints that count only when they verify.

A checkpoint is a directory `step-NNNNNNNN.<attempt>` that holds safetensors, JSON and a
`MANIFEST.json` with the size and BLAKE2b-128 hash of each. It is written under a name that ends
in `.tmp`, synchronised to disk, and renamed: the rename is the commit. Several ranks write files of
their own into the same draft, and one of them seals it once it has everybody's sizes and hashes
(`checkpoint_writer`). Reading joins the files of one kind, whoever wrote them, and tries the newest
first; one that does not verify is renamed to `*.bad`, named in a warning, and the one before it
is used. Nothing committed yet is a fresh start; commits of which none verifies are an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from everview.pipeline.errors import InputRejected
from everview.pipeline.runs.atomic import disk_errors

SCHEMA = 1
MANIFEST = "MANIFEST.json"
Warn = Callable[[str], None]
Files = Mapping[str, Mapping[str, Tensor]]
"""Tensors by file and name."""


@dataclass(frozen=True)
class Checkpoint:
    """What one commit holds: tensors, and facts that fit JSON."""

    step: int
    tensors: Files
    facts: Mapping[str, Any]
    name: str = ""
    """of its directory, when it was read"""


@dataclass(frozen=True)
class Entry:
    """A file of a checkpoint, as its manifest lists it."""

    name: str
    bytes: int
    blake2b_128: str


def commit(directory: Path, checkpoint: Checkpoint, keep: int = 3) -> Path:
    """Write `checkpoint` below `directory` as one unit; keep the newest `keep`. Its path.

    Raises as `write_part` does; earlier commits stay as they are then, and there is no new one.
    """
    name = checkpoint_name(checkpoint.step, uuid.uuid4().hex[:12])
    plain = {
        kind: {key: value.detach().cpu().clone().contiguous() for key, value in values.items()}
        for kind, values in checkpoint.tensors.items()
    }
    entries = write_part(directory, name, plain)
    return seal(directory, name, checkpoint.step, checkpoint.facts, entries, keep)


def checkpoint_name(step: int, attempt: str) -> str:
    """The name of a commit; attempt: what no other attempt at it is called."""
    return f"step-{step:08d}.{attempt}"


def write_part(directory: Path, name: str, tensors: Files, rank: int | None = None) -> list[Entry]:
    """Write these files into the draft of the commit `name`, synchronised. What was written.

    tensors: contiguous, in host memory, no two of a file overlapping: they are written as they lie.
    rank: of several that write into one draft, which; part of the files' names. Raises TryAgain
    when the disk is full, EnvironmentUnfit when it can't be written to; no draft is left then.
    """
    draft = _draft(directory, name)
    ending = "" if rank is None else f"-{rank}"
    entries = []
    with _drafting(draft):
        draft.mkdir(parents=True, exist_ok=True)
        for kind, values in tensors.items():
            path = draft / f"{kind}{ending}.safetensors"
            save_file(dict(values), path)
            entries.append(_finished(path))
    return entries


def seal(
    directory: Path,
    name: str,
    step: int,
    facts: Mapping[str, Any],
    entries: Iterable[Entry],
    keep: int,
) -> Path:
    """Turn the draft of `name`, which holds `entries`, into a commit; keep the newest `keep`."""
    draft, final = _draft(directory, name), directory / name
    with _drafting(draft):
        _write_json(draft / "facts.json", dict(facts))
        files = [*entries, _finished(draft / "facts.json")]
        manifest = {
            "schema": SCHEMA,
            "step": step,
            "files": {
                file.name: {"bytes": file.bytes, "blake2b_128": file.blake2b_128}
                for file in sorted(files, key=lambda file: file.name)
            },
        }
        _write_json(draft / MANIFEST, manifest)
        for path in (draft / MANIFEST, draft):
            _synchronise(path)
        draft.rename(final)
        _synchronise(directory)
    _purge(directory, keep)
    return final


def _draft(directory: Path, name: str) -> Path:
    return directory / f"{name}.tmp"


@contextmanager
def _drafting(draft: Path) -> Iterator[None]:
    """What goes wrong leaves no draft; a full or read-only disk is said as users can act on it."""
    try:
        with disk_errors(draft):
            yield
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _finished(path: Path) -> Entry:
    """A written file on the disk."""
    _synchronise(path)
    return Entry(path.name, path.stat().st_size, _hash(path))


def newest(directory: Path, warn: Warn) -> Checkpoint | None:
    """The newest checkpoint below `directory` that verifies; None when nothing was committed.

    Clears unfinished drafts: nobody else may be writing there.

    Raises InputRejected when there are commits and none of them verifies.
    """
    for leftover in directory.glob("step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    committed = _committed(directory)
    for path in committed:
        try:
            return read(path)
        except InputRejected as error:
            aside = path.with_name(f"{path.name}.bad")
            path.rename(aside)
            warn(f"{error}; set aside as {aside.name}")
    if committed or list(directory.glob("step-*.bad")):
        raise InputRejected(
            f"no checkpoint in {directory} verifies: restore one, or start over with --fresh"
        )
    return None


def last_step(directory: Path) -> int | None:
    """The step of the newest commit below `directory`, verified or not; None without one."""
    committed = _committed(directory)
    return int(committed[0].name[5:13]) if committed else None


def read(path: Path) -> Checkpoint:
    """The checkpoint at `path`, sizes checked before hashes and hashes before contents.

    Raises InputRejected where it doesn't verify.
    """
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
        tensors: dict[str, dict[str, Tensor]] = {}
        for name in sorted(listed):
            if name.endswith(".safetensors"):
                kind = Path(name).stem.partition("-")[0]
                tensors.setdefault(kind, {}).update(load_file(path / name))
        return Checkpoint(int(manifest["step"]), tensors, facts, path.name)
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
