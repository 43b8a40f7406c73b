"""A rerun recording of a stream: what it saw, when, where from, and how it was judged, over time.

    world/camera            the frame, its pinhole camera and pose
    world/camera/depth      the sensor's depth, where frames have it
    world/keyframes/N       points of each keyframe of the geometry, from the moment it was seen:
                            the cloud grows with the stream
    world/points, mesh      points.ply and mesh.ply, static
    world/path              the way of the camera, static
    compared/...            held-out views at their time: truth, rendered, memory, error
    curves/...              per frame: residual before it was learned, PSNR, latency

Timelines: `frame`, the number in the stream, and `time` in seconds where the frames have one.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from everview.datasets.captures import Frame
from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.exporting.streamed_run import StreamedRun, finite_depth
from everview.pipeline.runs import read_frames

RECORDING_NAME = "recording.rrd"
_JPEG_QUALITY = 90
_KEYFRAME_POINTS = 4000
_CURVES = ("residual", "memory_residual", "psnr", "latency_ms")
_COMPARED = ("truth", "rendered", "memory", "error")


def import_rerun() -> ModuleType:
    """rerun, or EnvironmentUnfit with the one line that mends it."""
    try:
        import rerun
    except ImportError as error:
        raise EnvironmentUnfit(
            "a recording needs rerun, which is not installed: pip install 'everview[rerun]'"
        ) from error
    return rerun


def write_recording(file: Path, scene: StreamedRun, frames: Iterator[Frame]) -> dict[str, Any]:
    """Write the recording of a run; returns what is in it.

    Raises EnvironmentUnfit without rerun.
    """
    rr = import_rerun()
    stream = rr.RecordingStream("everview", recording_id=f"everview {scene.run.resolve().name}")
    stream.save(str(file))
    clock = _Clock(stream)
    try:
        solids = _log_solids(rr, stream, scene)
        shown = 0
        for frame in frames:
            clock.set(frame.index, frame.time_s)
            _log_frame(rr, stream, frame, scene.scale == "metric")
            shown += 1
        for frame in scene.keyframes:
            clock.set(frame.index, frame.time_s)
            _log_keyframe(rr, stream, frame)
        rows = read_frames(scene.run)
        compared = 0
        for row in rows:
            clock.set(int(row["id"]), row.get("time_s"))
            _log_curves(rr, stream, row)
            compared += _log_comparison(rr, stream, scene.run / "views", row)
    finally:
        stream.disconnect()
    return {
        "frames": shown, "keyframes": len(scene.keyframes), "compared": compared,
        "rows": len(rows), **solids,
    }  # fmt: skip


class _Clock:
    """The two timelines; a frame without a time leaves the second one unset."""

    def __init__(self, stream: Any):
        self._stream = stream

    def set(self, index: int, time_s: float | None) -> None:
        self._stream.reset_time()
        self._stream.set_time("frame", sequence=index)
        if time_s is not None and math.isfinite(time_s):
            self._stream.set_time("time", duration=float(time_s))


def _log_solids(rr: ModuleType, stream: Any, scene: StreamedRun) -> dict[str, int]:
    points, mesh = scene.points(), scene.mesh()
    way = np.stack([seen.camera.centre for seen in scene.trajectory.seen()])
    stream.log("world/path", rr.LineStrips3D([way.astype(np.float32)]), static=True)
    if points is not None:
        cloud = rr.Points3D(points.points, colors=points.colours)
        stream.log("world/points", cloud, static=True)
    if mesh is not None:
        surface = rr.Mesh3D(
            vertex_positions=mesh.vertices,
            triangle_indices=mesh.faces,
            vertex_colors=mesh.colours,
        )
        stream.log("world/mesh", surface, static=True)
    return {
        "points": 0 if points is None else len(points.points),
        "faces": 0 if mesh is None else len(mesh.faces),
    }


def _log_frame(rr: ModuleType, stream: Any, frame: Frame, is_metric: bool) -> None:
    camera = frame.camera
    assert camera is not None
    pose = camera.c2w_cv
    stream.log("world/camera", rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
    stream.log(
        "world/camera",
        rr.Pinhole(
            resolution=[camera.width, camera.height],
            focal_length=[camera.fx, camera.fy],
            principal_point=[camera.cx, camera.cy],
            camera_xyz=rr.ViewCoordinates.RDF,
        ),
    )
    stream.log("world/camera/image", _picture(rr, frame.image))
    if frame.depth is not None and (frame.depth > 0).any():
        # in the world's unit: a metre where it is metric
        stream.log("world/camera/depth", rr.DepthImage(finite_depth(frame.depth), meter=1.0))


def _log_keyframe(rr: ModuleType, stream: Any, frame: Frame) -> None:
    assert frame.camera is not None
    assert frame.depth is not None
    seen = np.flatnonzero(frame.depth.ravel() > 0)
    if not len(seen):
        return
    seen = seen[:: -(-len(seen) // _KEYFRAME_POINTS)]
    pixels = frame.camera.pixel_centres().reshape(-1, 2)[seen]
    points = frame.camera.unproject(pixels, frame.depth.ravel()[seen]).astype(np.float32)
    colours = frame.image.reshape(-1, 3)[seen]
    stream.log(f"world/keyframes/{frame.index:06d}", rr.Points3D(points, colors=colours))


def _log_curves(rr: ModuleType, stream: Any, row: Mapping[str, Any]) -> None:
    for name in _CURVES:
        value = row.get(name)
        if value is not None and math.isfinite(value):
            stream.log(f"curves/{name}", rr.Scalars(float(value)))


def _log_comparison(rr: ModuleType, stream: Any, views: Path, row: Mapping[str, Any]) -> int:
    """The pictures of a held-out frame that the stream has kept; whether there were any."""
    if row.get("role") != "held_out":
        return 0
    files = {name: views / f"{int(row['id']):05d}_{name}.png" for name in _COMPARED}
    found = {name: file for name, file in files.items() if file.is_file()}
    for name, file in found.items():
        contents = rr.EncodedImage(contents=file.read_bytes(), media_type="image/png")
        stream.log(f"compared/{name}", contents)
    return int(bool(found))


def _picture(rr: ModuleType, image: np.ndarray) -> Any:
    """Compressed: an hour of raw pictures is no recording that anybody could send."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=_JPEG_QUALITY)
    return rr.EncodedImage(contents=file.getvalue(), media_type="image/jpeg")
