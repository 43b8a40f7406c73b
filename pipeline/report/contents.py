"""What a run directory holds that a report can show. Everything in it counts as untrusted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.cameras import Camera, opencv_from_opengl
from everview.pipeline.errors import InputRejected
from everview.pipeline.runs import read_frames, read_metrics, read_run
from everview.pipeline.runs.metrics import read_json_object

_MAX_CAMERAS = 100_000
_MAX_CURVE_MIB = 64


@dataclass(frozen=True, eq=False)
class PlacedCamera:
    """A camera of the run, and whether its frame was observed ("input") or "held_out"."""

    camera: Camera
    role: str


@dataclass(frozen=True)
class PictureSet:
    """The pictures of one view, by kind: rendered, truth, error, memory, nearest, depth."""

    name: str
    files: dict[str, Path]
    row: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class RunContents:
    """A run as read. Lists are empty where the run has none of it."""

    path: Path
    record: dict[str, Any]
    metrics: dict[str, Any]
    frames: list[dict[str, Any]]
    cameras: list[PlacedCamera]
    views: list[PictureSet]
    stills: list[Path]
    video: Path | None
    curve: list[dict[str, Any]]
    sheets: list[Path]
    files: list[tuple[str, int]]


def read_contents(path: Path) -> RunContents:
    """Read what is there. Raises InputRejected when `path` holds no run, or a damaged one."""
    record = read_run(path)
    if record is None:
        raise InputRejected(f"{path} holds no run; give a directory that a verb has left")
    frames = read_frames(path)
    views, stills = _pictures(path, frames)
    video = path / "novel_views.mp4"
    return RunContents(
        path=path,
        record=record,
        metrics=read_metrics(path) or {},
        frames=frames,
        cameras=_cameras(path, frames),
        views=views,
        stills=stills,
        video=video if is_own_file(video) else None,
        curve=_curve(path / "metrics.jsonl"),
        sheets=[p for p in (path / "samples.png", path / "contact_sheet.png") if is_own_file(p)],
        files=_files(path),
    )


def is_own_file(path: Path) -> bool:
    """Whether a path is a file of the run itself: a link could point at anybody's."""
    return path.is_file() and not path.is_symlink()


_KINDS = ("rendered", "truth", "error", "memory", "nearest")
_PICTURE = re.compile(rf"(?P<name>.+)_(?P<kind>{'|'.join(_KINDS)})")


def _pictures(path: Path, frames: list[dict[str, Any]]) -> tuple[list[PictureSet], list[Path]]:
    """Comparisons, by view, and the pictures that compare with nothing."""
    by_key = {_key(row): row for row in frames if row.get("role") == "held_out"}
    several = len({row.get("scene") for row in by_key.values()}) > 1
    sets: dict[str, dict[str, Path]] = {}
    stills = []
    folder = path / "views"
    for file in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        match = _PICTURE.fullmatch(file.stem)
        if not is_own_file(file):
            continue
        if match is None:
            stills.append(file)
        else:
            sets.setdefault(match["name"], {})[match["kind"]] = file
    views = []
    for name, files in sets.items():
        if "rendered" not in files:
            continue
        depth = path / "depth" / f"{name}_colour.png"
        if is_own_file(depth):
            files["depth"] = depth
        scene, _, index = name.rpartition("-")
        key = (scene if several else None, int(index) if index.isdigit() else -1)
        row = by_key.get(key) or next(
            (r for k, r in by_key.items() if not several and k[1] == key[1]), None
        )
        views.append(PictureSet(name, files, row))
    return views, stills


def _key(row: dict[str, Any]) -> tuple[str | None, int]:
    return row.get("scene"), int(row["id"]) if row.get("id") is not None else -1


def _cameras(path: Path, frames: list[dict[str, Any]]) -> list[PlacedCamera]:
    """From `cameras.json`, else from `transforms.json` with the roles of `frames.parquet`."""
    placed = []
    stored = read_json_object(path / "cameras.json")
    roles = {row.get("name"): row.get("role") for row in frames}
    if stored is not None:
        entries = [(e, e.get("role")) for e in _dicts(stored.get("frames"))]
        return [p for entry, role in entries if (p := _placed(entry, entry, role, False))]
    stored = read_json_object(path / "transforms.json")
    if stored is not None:
        for entry in _dicts(stored.get("frames")):
            role = roles.get(entry.get("file_path"))
            merged = {**stored, **entry}
            if one := _placed(merged, entry, role, True):
                placed.append(one)
    return placed


def _dicts(value: Any) -> list[dict[str, Any]]:
    entries = value if isinstance(value, list) else []
    return [entry for entry in entries[:_MAX_CAMERAS] if isinstance(entry, dict)]


def _placed(
    lens: dict[str, Any], entry: dict[str, Any], role: Any, is_opengl: bool
) -> PlacedCamera | None:
    names = ("w", "h", "fl_x", "fl_y", "cx", "cy") if is_opengl else (
        "width", "height", "fx", "fy", "cx", "cy")  # fmt: skip
    try:
        width, height, fx, fy, cx, cy = (float(lens[name]) for name in names)
        pose = np.array(entry["transform_matrix" if is_opengl else "c2w_cv"], np.float64)
        pose = opencv_from_opengl(pose) if is_opengl else pose
        camera = Camera(int(width), int(height), fx, fy, cx, cy, pose)
    except (KeyError, TypeError, ValueError):
        return None
    return PlacedCamera(camera, "held_out" if role == "held_out" else "input")


def _curve(path: Path) -> list[dict[str, Any]]:
    """Lines of a training curve; a line cut off by a kill is left out."""
    if not is_own_file(path) or path.stat().st_size > _MAX_CURVE_MIB * 2**20:
        return []
    lines = []
    for text in path.read_text("utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def _files(path: Path) -> list[tuple[str, int]]:
    """What the run left, with sizes; folders as one line with their total."""
    listed = []
    for entry in sorted(path.iterdir()):
        if entry.name.startswith(".") or entry.is_symlink() or entry.name == "report.html":
            continue
        if entry.is_dir():
            inside = [f for f in entry.rglob("*") if is_own_file(f)]
            listed.append(
                (f"{entry.name}/ ({len(inside)} files)", sum(f.stat().st_size for f in inside))
            )
        else:
            listed.append((entry.name, entry.stat().st_size))
    return listed
