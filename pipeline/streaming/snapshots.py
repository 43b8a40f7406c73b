"""Snapshots: everything a session needs to go on, committed as one unit.

    snapshot/00000012-97/         one per commit, named by chunks absorbed and arrivals received,
                                  and counted (-1, -2) where those are the same again
        state.safetensors         the state, gauge and clock included
        frames.safetensors        frames that wait for their turn or for their chunk to fill, the
                                  last one written, and those kept for probes
        session.json              counters, capture cursor, what the window and the gate remember,
                                  weights' name and hash; the marks of the run's files that only
                                  grow: trajectory, rows, events, chunks
        MANIFEST.json             size and blake2b-128 of each file above

A commit is written under a temporary name, flushed, and renamed: the directory is there with a
manifest that verifies, or it does not count. The newest good one is used; a bad one is set aside
under `bad-*` and named. The last two are kept. A file that only grows belongs to a commit up to its
mark, so a commit costs the same however long the stream is; one whose mark doesn't verify is bad.
Archived segments (`segments/`) are written before the snapshot that names them, and one whose
segments don't verify is a bad one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from everview.pipeline.errors import InputRejected
from everview.pipeline.runs import disk_errors
from everview.pipeline.runs.appended import Mark, check_mark
from everview.pipeline.streaming.segments.archive import check_archived

FOLDER = "snapshot"
MANIFEST = "MANIFEST.json"
SCHEMA = 2
_EARLIER = (1,)

_KEPT = 2
_TENSOR_FILES = ("state", "frames")
_MAX_JSON_BYTES = 64 * 2**20


class EarlierSnapshot(InputRejected):
    """A snapshot of an earlier version: not damaged, but not of use any more."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The content of one commit: two named groups of tensors and plain JSON facts."""

    state: dict[str, Tensor]
    frames: dict[str, Tensor]
    facts: dict[str, Any]
    set_aside: tuple[str, ...] = field(default=())
    """sentences about newer commits that did not verify"""


def commit_snapshot(run: Path, snapshot: Snapshot) -> Path:
    """Commit under `run`/snapshot and drop all but the last two; returns the commit's directory.

    Raises TryAgain when the disk is full; the commits before it stay as they were.
    """
    root = run / FOLDER
    final = _new_place(root, int(snapshot.facts["num_chunks"]), int(snapshot.facts["received"]))
    partial = root / f".{final.name}.{uuid.uuid4().hex[:8]}.tmp"
    with disk_errors(final):
        partial.mkdir(parents=True)
        try:
            for name in _TENSOR_FILES:
                tensors = {
                    key: tensor.detach().cpu().contiguous()
                    for key, tensor in getattr(snapshot, name).items()
                }
                save_file(tensors, partial / f"{name}.safetensors")
            _write_json(partial / "session.json", snapshot.facts)
            files = sorted(partial.iterdir())
            manifest = {"schema": SCHEMA, "files": {file.name: _describe(file) for file in files}}
            _write_json(partial / MANIFEST, manifest)
            for file in partial.iterdir():
                _sync(file)
            _sync(partial)
            _sync(run)  # the files that only grow may be new
            os.rename(partial, final)
            _sync(root)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    for old in (*_commits(root)[:-_KEPT], *root.glob(".*.tmp")):  # and what a kill cut off
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_snapshot(run: Path) -> Snapshot | None:
    """The newest commit of a run that verifies; None when none was ever made.

    Damaged newer ones are renamed to `bad-*` and named in `set_aside`. Raises InputRejected when
    commits exist and none verifies, or an earlier version made them.
    """
    root = run / FOLDER
    complaints: list[str] = []
    for commit in reversed(_commits(root)):
        try:
            return _read(commit, tuple(complaints))
        except EarlierSnapshot:
            raise
        except InputRejected as error:
            complaints.append(str(error))
            with suppress(OSError):  # who only looks in may not write there, or it went meanwhile
                os.replace(commit, root / f"bad-{commit.name}-{uuid.uuid4().hex[:4]}")
    # set aside by an earlier attempt: never a silent fresh start
    complaints += [f"{path} was set aside as damaged" for path in sorted(root.glob("bad-*"))]
    if complaints:
        raise InputRejected(
            f"no snapshot of {run} can be used: {'; '.join(complaints)}; start over with --fresh"
        )
    return None


def newest_commit(run: Path) -> Path | None:
    """Where the newest commit of a run lies, verified or not; None when none was ever made."""
    commits = _commits(run / FOLDER)
    return commits[-1] if commits else None


def numbers_of(commit: Path) -> tuple[int, int]:
    """Of a commit: chunks absorbed, and frames received."""
    chunks, received, *_ = commit.name.split("-")
    return int(chunks), int(received)


def verify_commit(commit: Path) -> None:
    """Compare a commit with its manifest, sizes first. Raises InputRejected naming the file."""
    manifest = _read_json(commit / MANIFEST)
    files = manifest.get("files")
    if manifest.get("schema") in _EARLIER:
        raise EarlierSnapshot(
            f"{commit} was made by an earlier version, which kept the trajectory elsewhere: stream "
            "again with --fresh"
        )
    if manifest.get("schema") != SCHEMA or not isinstance(files, dict):
        raise InputRejected(f"{commit / MANIFEST} is not a manifest of schema {SCHEMA}")
    needed = {f"{name}.safetensors" for name in _TENSOR_FILES} | {"session.json"}
    if set(files) != needed:
        raise InputRejected(f"{commit / MANIFEST} lists {sorted(files)}, not {sorted(needed)}")
    for name, expected in files.items():
        file = commit / name
        if not isinstance(expected, dict) or not file.is_file():
            raise InputRejected(f"{file} is missing from the snapshot")
        if file.stat().st_size != expected.get("bytes"):
            raise InputRejected(
                f"{file} has {file.stat().st_size} bytes, its manifest says {expected.get('bytes')}"
            )
        if _hash(file) != expected.get("blake2b"):
            raise InputRejected(f"{file} differs from its manifest: its bytes have changed")


def _read(commit: Path, set_aside: tuple[str, ...]) -> Snapshot:
    verify_commit(commit)
    facts = _read_json(commit / "session.json")
    for name, mark in facts["appended"].items():
        file = commit.parent.parent / name
        if file.exists():  # the rows of a complete run are a table by now
            check_mark(file, Mark.of(mark))
    # a snapshot is one unit with the segments that it names
    check_archived(commit.parent.parent, (facts.get("segments") or {}).get("files", ()))
    groups = {name: load_file(commit / f"{name}.safetensors") for name in _TENSOR_FILES}
    return Snapshot(facts=facts, set_aside=set_aside, **groups)


def _commits(root: Path) -> list[Path]:
    """Committed directories, oldest first."""
    if not root.is_dir():
        return []
    named = [path for path in root.iterdir() if path.is_dir() and path.name[:1].isdigit()]
    return sorted(named, key=lambda path: tuple(int(part) for part in path.name.split("-")))


def _new_place(root: Path, chunks: int, received: int) -> Path:
    """After a commit of the same numbers, at the end of a stream for instance, one more: at no
    moment may there be none of the two."""
    known = [path for path in _commits(root) if numbers_of(path) == (chunks, received)]
    same = [path.name.split("-") for path in known]
    name = f"{chunks:08d}-{received}"
    return root / (f"{name}-{int(same[-1][2]) + 1 if same[-1][2:] else 1}" if same else name)


def _describe(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "blake2b": _hash(file)}


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise InputRejected(f"{file} has {file.stat().st_size} bytes: not a snapshot's")
        value = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputRejected(f"{file} can't be read: {error}") from error
    if not isinstance(value, dict):
        raise InputRejected(f"{file} is not a JSON object")
    return value


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", "utf-8")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
