"""Archived segments: one file each under `segments/`, named by its content.

    segments/00000002-4f0c...e1.safetensors     number, and blake2b-128 of the file

A file holds a frozen state with its gauge (`state.*`) and the views it covers. It is written before
the snapshot that names it, under a temporary name, flushed and renamed. A kill between the two
leaves a file that no snapshot names: it is dropped when the run goes on, and made again. A snapshot
verifies only with all the files that it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from everview.models.gauge import Gauge
from everview.models.scene_model import SceneModel
from everview.models.state import (
    SceneState,
    StateError,
    state_from_tensors,
    state_to_tensors,
    to_device,
)
from everview.pipeline.errors import InputRejected
from everview.pipeline.runs.atomic import write_bytes
from everview.pipeline.streaming.frame_tensors import under_prefix, with_prefix
from everview.pipeline.streaming.segments.atlas import Segment
from everview.pipeline.streaming.segments.covered import Covered

FOLDER = "segments"
_SUFFIX = ".safetensors"
_GAUGE = ("rotation", "origin", "scale")


def archive(run: Path, segment: Segment, state: SceneState) -> Segment:
    """Write a segment that has ended; returns it with its file. Raises TryAgain on a full disk."""
    tensors, facts = state_to_tensors(state)
    held = with_prefix("state", {name: t.cpu() for name, t in tensors.items()})
    held["covered"] = torch.from_numpy(segment.covered.rows)
    told = {
        "number": segment.number,
        "chunks": list(segment.chunks),
        "seen": segment.covered.seen,
        "stride": segment.covered.stride,
        "moves": segment.moves,
        "state": facts,
    }
    content = save(held, {"segment": json.dumps(told)})
    name = f"{segment.number:08d}-{_hash(content)}{_SUFFIX}"
    write_bytes(run / FOLDER / name, content)
    return replace(segment, file=name)


def check_archived(run: Path, files: Sequence[str]) -> None:
    """Raises InputRejected naming the first of the files that is missing or has changed."""
    for name in files:
        _content(run, name)


def read_segment(run: Path, name: str) -> Segment:
    """What is known of an archived segment without its state. Raises InputRejected."""
    content = _content(run, name)
    told, held = _told(content, name), _loaded(content, name)
    try:
        rotation, origin, scale = (held[f"state.gauge.{part}"] for part in _GAUGE)
        gauge = Gauge(rotation, origin, scale, str(told["state"]["gauge_rule"]))
        covered = Covered(held["covered"].numpy(), int(told["stride"]), int(told["seen"]))
        first, end = (int(chunk) for chunk in told["chunks"])
        moves = bool(told.get("moves", False))  # of before it was asked: nothing did
        return Segment(int(told["number"]), gauge, covered, (first, end), name, moves)
    except (KeyError, TypeError, ValueError) as error:
        raise InputRejected(f"{run / FOLDER / name} is no archived segment: {error!r}") from error


def read_state(run: Path, name: str, model: SceneModel) -> SceneState:
    """The state of an archived segment, on the model's device. Raises InputRejected."""
    content = _content(run, name)
    tensors = under_prefix("state", _loaded(content, name))
    try:
        state = state_from_tensors(tensors, _told(content, name)["state"], model.init_state(1))
    except (StateError, KeyError, AttributeError) as error:
        raise InputRejected(f"{run / FOLDER / name} can't be used: {error}") from error
    return to_device(state, model.device)


def drop_unnamed(run: Path, files: Sequence[str]) -> None:
    """Remove the files of segments that ended after the snapshot which goes on."""
    for path in (run / FOLDER).glob(f"*{_SUFFIX}"):
        if path.name not in files:
            path.unlink(missing_ok=True)


def _content(run: Path, name: str) -> bytes:
    """The file's bytes, if they are those that its name says."""
    path = run / FOLDER / name
    if os.sep in name or not name.endswith(_SUFFIX):
        raise InputRejected(f"{name!r} is no name of an archived segment")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputRejected(f"{path} can't be read: {error}") from error
    if _hash(content) != name.removesuffix(_SUFFIX).partition("-")[2]:
        raise InputRejected(f"{path} differs from the hash in its name: its bytes have changed")
    return content


def _loaded(content: bytes, name: str) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputRejected(f"the archived segment {name} can't be read: {error}") from error


def _told(content: bytes, name: str) -> dict[str, Any]:
    """The JSON in the header's metadata."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        told = json.loads(content[8 : 8 + length])["__metadata__"]["segment"]
        return dict(json.loads(told))
    except (struct.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputRejected(f"the archived segment {name} can't be read: {error}") from error


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
