"""What a finished stream's run directory must hold, and how to tell: every file is opened, and what
is counted in two places is compared. Nothing is changed, set aside or mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import av
import numpy as np
from PIL import Image

from everview.datasets.errors import DataError
from everview.pipeline.errors import InputRejected
from everview.pipeline.fusion.scene_geometry import MESH_NAME, POINTS_NAME
from everview.pipeline.rendering.ply import Mesh, read_ply
from everview.pipeline.runs import read_frames, read_metrics, read_run
from everview.pipeline.runs.frames import JOURNAL_NAME
from everview.pipeline.runs.metrics import FLOORS, METRIC_KEYS
from everview.pipeline.streaming.chunks import read_chunks
from everview.pipeline.streaming.gate.verdicts import WRITTEN
from everview.pipeline.streaming.snapshots import newest_commit, numbers_of, verify_commit

VERB = "stream"
_NOTED = ("device", "backends", "gauge", "input", "weights", "stream", "durations_s")
# what couldn't be read, was dropped or lost its camera is rejected too
_FATES = ("held out", "accepted", "rectified", "rejected", "duplicate", "late")


@dataclass(frozen=True, eq=False)
class _Finished:
    """A run directory with its run.json and metrics.json."""

    path: Path
    record: dict[str, Any]
    metrics: dict[str, Any]


def shortcomings(run: Path) -> list[str]:
    """Sentences on what the run of a stream lacks; none: it is complete.

    Raises InputRejected where `run` holds no run, or of another verb, or a file that isn't ours.
    """
    record = read_run(run)
    if record is None or record.get("verb") != VERB:
        raise InputRejected(f"{run} holds no stream; give the run directory of one")
    if record["status"] != "done":
        return [f"the stream is not finished: {record['status']}"]
    metrics = read_metrics(run)
    if metrics is None:
        return ["metrics.json is not there"]
    absent = [name for name in _NOTED if not record.get(name)]
    if absent:
        return [f"run.json doesn't say its {', '.join(absent)}"]
    checks = (_measured, _counted, _cameras, _snapshot, _pictures, _video, _geometry, _leftovers)
    found: list[str] = []
    for check in checks:
        try:
            found += check(_Finished(run, record, metrics))
        except (DataError, InputRejected, BadZipFile, OSError, ValueError, KeyError) as error:
            found.append(f"{check.__name__.strip('_')}: {error or type(error).__name__}")
    return found


def _measured(run: _Finished) -> Iterator[str]:
    """Everything has a value or a reason."""
    reasons = run.metrics["missing"]
    for key in METRIC_KEYS:
        if key not in run.metrics or (run.metrics[key] is None and not reasons.get(key)):
            yield f"metrics.json has neither {key} nor a reason why not"
    for name in FLOORS:
        if run.metrics["floors"].get(name) is None and not reasons.get(f"floors.{name}"):
            yield f"metrics.json has neither the floor {name} nor a reason why not"


def _counted(run: _Finished) -> Iterator[str]:
    """Every arrival has one fate; rows, chunks and counts tell the same."""
    counts = run.record["stream"]["counts"]
    told = sum(counts.get(fate, 0) for fate in _FATES)
    if told != counts["received"]:
        yield f"{counts['received']} frames came, and what became of {told} is said"
    rows = read_frames(run.path)
    inputs = [row for row in rows if row["role"] == "input" and row["gate"] in WRITTEN]
    written = counts.get("accepted", 0) + counts.get("rectified", 0)
    chunks = read_chunks(run.path)
    absorbed = sum(chunk["frames"] for chunk in chunks)
    if not len(inputs) == written == absorbed:
        yield (
            f"{written} frames were written, frames.parquet has {len(inputs)}, chunks.jsonl "
            f"{absorbed}"
        )
    if [chunk["chunk"] for chunk in chunks] != list(range(run.metrics["details"]["chunks"])):
        yield f"chunks.jsonl doesn't number {run.metrics['details']['chunks']} chunks"
    compared = sum(row["role"] == "held_out" for row in rows)
    if compared != run.metrics["details"]["held_out_frames"]:
        yield f"frames.parquet has {compared} held-out frames, metrics.json another number"
    if any(a["id"] > b["id"] for a, b in pairwise(rows)):
        yield "the rows of frames.parquet are not in the stream's order"


def _cameras(run: _Finished) -> Iterator[str]:
    seen = run.record["stream"]["frames"]
    listed = len(json.loads((run.path / "transforms.json").read_text("utf-8"))["frames"])
    lines = (run.path / "trajectory_tum.txt").read_text("utf-8").splitlines()
    tum = sum(bool(line.strip()) and not line.startswith("#") for line in lines)
    if not seen == listed == tum:
        yield f"{seen} frames had cameras, transforms.json has {listed}, trajectory_tum.txt {tum}"


def _snapshot(run: _Finished) -> Iterator[str]:
    commit = newest_commit(run.path)
    if commit is None:
        yield "there is no snapshot to render from"
        return
    verify_commit(commit)
    stream = run.record["stream"]
    if numbers_of(commit) != (stream["chunks"]["count"], stream["counts"]["received"]):
        yield f"the newest snapshot, {commit.name}, is not of the stream's end"


def _pictures(run: _Finished) -> Iterator[str]:
    """Shown views with what they are compared with, and their depth."""
    due = min(run.record["config"]["review_views"], run.metrics["details"]["held_out_frames"])
    shown = sorted((run.path / "views").glob("*_rendered.png"))
    if len(shown) != due:
        yield f"views/ shows {len(shown)} held-out frames of {due}"
    for picture in shown:
        name = picture.name.removesuffix("_rendered.png")
        sizes = set()
        for kind in ("rendered", "truth", "memory", "error"):
            with Image.open(run.path / "views" / f"{name}_{kind}.png", formats=["PNG"]) as image:
                image.load()
                sizes.add(image.size)
        with np.load(run.path / "depth" / f"{name}.npz", allow_pickle=False) as depth:
            if not depth.files:
                yield f"depth/{name}.npz is empty"
        if len(sizes) != 1:
            yield f"the pictures of {name} differ in size: {sorted(sizes)}"


def _video(run: _Finished) -> Iterator[str]:
    with av.open(str(run.path / "novel_views.mp4")) as video:
        shown = sum(1 for _ in video.decode(video=0))
    if shown != run.metrics["details"]["path_frames"]:
        yield f"novel_views.mp4 has {shown} frames of {run.metrics['details']['path_frames']}"


def _geometry(run: _Finished) -> Iterator[str]:
    told = run.metrics["details"].get("geometry") or {}
    for name, count in ((POINTS_NAME, "num_points"), (MESH_NAME, "num_vertices")):
        if (run.path / name).exists():
            read = read_ply(run.path / name)
            points = read.vertices if isinstance(read, Mesh) else read.points
            if len(points) != told.get(count):
                yield f"{name} has {len(points)} points, metrics.json says {told.get(count)}"
        elif not run.metrics["missing"].get(name):
            yield f"{name} is not there, and nothing says why"


def _leftovers(run: _Finished) -> Iterator[str]:
    """The page is there, and nothing of what only an unfinished run needs."""
    page = run.path / "report.html"
    if not page.is_file() or not page.read_text("utf-8").rstrip().endswith("</html>"):
        yield "report.html is not whole"
    if (run.path / JOURNAL_NAME).exists():
        yield f"{JOURNAL_NAME} was left behind"
    for path in sorted(run.path.rglob("*")):
        if path.name.startswith(".") and path.suffix == ".tmp":
            yield f"{path.relative_to(run.path)} was left behind"
