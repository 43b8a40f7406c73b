"""`everview export RUN --format ...`: a streamed scene in the folders that other tools open."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.datasets.writers.colmap_text import write_colmap_text
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.pipeline.exporting.config import ExportConfig
from everview.pipeline.exporting.meshlab import write_meshlab
from everview.pipeline.exporting.pictures import Stored, store_frame
from everview.pipeline.exporting.rerun_recording import (
    RECORDING_NAME,
    import_rerun,
    write_recording,
)
from everview.pipeline.exporting.streamed_run import StreamedRun, open_streamed_run
from everview.pipeline.rendering.ply import write_point_cloud
from everview.pipeline.runs import RunDirectory
from everview.pipeline.runs.atomic import sync_folder
from everview.pipeline.streaming.camera_files import write_trajectory
from everview.pipeline.streaming.progress import Progress, Silent

_PARTIAL = ".partial"


@dataclass(frozen=True)
class ExportResult:
    """run: the directory. written: format -> what is in its folder. notes: what is not there."""

    run: Path
    written: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())


def export_run(
    config: ExportConfig,
    out: Path,
    *,
    fresh: bool = False,
    command: list[str] | None = None,
    progress: Progress | None = None,
) -> ExportResult:
    """Write OUT/FORMAT for each format, whole or not at all, and OUT/trajectory_tum.txt.

    Raises InputRejected for a run without a snapshot, DataError when a format has nothing to hold,
    EnvironmentUnfit for `rerun` without its extra, UsageError for an `out` that holds something.
    """
    progress = progress or Silent()
    scene = open_streamed_run(Path(config.run))
    if "rerun" in config.format:
        import_rerun()  # before any work is done
    written: dict[str, Any] = {}
    with RunDirectory.open(out, "export", config, command, fresh) as run:
        run.note(input={"source": config.run, "streamed": scene.source, "scale": scene.scale})
        for leftover in run.path.glob(f".*{_PARTIAL}"):  # of an attempt that was killed
            shutil.rmtree(leftover)
        write_trajectory(run.path / "trajectory_tum.txt", scene.trajectory)
        for name in dict.fromkeys(config.format):
            with run.timed(name), _whole(run.path / name) as folder:
                written[name] = _WRITERS[name](scene, config, folder, progress)
        run.note(written=written, missing=scene.notes)
    return ExportResult(run.path, written, tuple(scene.notes))


@contextmanager
def _whole(final: Path) -> Iterator[Path]:
    """A folder that appears under its name when everything is in it; nothing is left otherwise."""
    partial = final.with_name(f".{final.name}{_PARTIAL}")
    shutil.rmtree(final, ignore_errors=True)  # of an unfinished attempt: a finished one is refused
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(final)
        sync_folder(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _frames(
    scene: StreamedRun, config: ExportConfig, stage: str, progress: Progress
) -> Iterator[Frame]:
    total = min(config.frames, len(scene.trajectory))
    for done, frame in enumerate(scene.frames(config.frames, config.size, config.capture), 1):
        yield frame
        progress.step(stage, done, total)


def _nerfstudio(
    scene: StreamedRun, config: ExportConfig, folder: Path, progress: Progress
) -> dict[str, Any]:
    stored = [
        store_frame(folder, frame, with_depth=True)
        for frame in _frames(scene, config, "pictures", progress)
    ]
    points = scene.points()
    if points is not None:
        write_point_cloud(folder / "points.ply", points)
    write_transforms_json(
        folder / "transforms.json",
        [each.beside_images() for each in stored],
        scene.scale,
        points=None if points is None else "points.ply",
    )
    return _told(stored, points=None if points is None else len(points.points))


def _colmap(
    scene: StreamedRun, config: ExportConfig, folder: Path, progress: Progress
) -> dict[str, Any]:
    stored = [
        store_frame(folder, frame, with_depth=False)
        for frame in _frames(scene, config, "pictures", progress)
    ]
    points = scene.points()
    write_colmap_text(
        folder / "sparse" / "0",
        [each.in_images() for each in stored],
        None if points is None else points.points,
        None if points is None else points.colours,
    )
    return _told(stored, points=None if points is None else len(points.points))


def _meshlab(
    scene: StreamedRun, config: ExportConfig, folder: Path, progress: Progress
) -> dict[str, Any]:
    mesh, points = scene.mesh(), scene.points()
    if mesh is None and points is None:
        raise DataError(f"{scene.run} has no points.ply and no mesh.ply: nothing for MeshLab")
    centres = np.stack([seen.camera.centre for seen in scene.trajectory.seen(False)])
    names = write_meshlab(folder, mesh, points, centres)
    return {
        "files": names,
        "points": None if points is None else len(points.points),
        "vertices": None if mesh is None else len(mesh.vertices),
        "faces": None if mesh is None else len(mesh.faces),
    }


def _rerun(
    scene: StreamedRun, config: ExportConfig, folder: Path, progress: Progress
) -> dict[str, Any]:
    frames = _frames(scene, config, "recording", progress)
    return write_recording(folder / RECORDING_NAME, scene, frames)


def _told(stored: list[Stored], points: int | None) -> dict[str, Any]:
    return {
        "frames": len(stored),
        "with_depth": sum(each.has_depth for each in stored),
        "points": points,
    }


Writer = Callable[[StreamedRun, ExportConfig, Path, Progress], dict[str, Any]]
_WRITERS: dict[str, Writer] = {
    "nerfstudio": _nerfstudio,
    "colmap": _colmap,
    "meshlab": _meshlab,
    "rerun": _rerun,
}
