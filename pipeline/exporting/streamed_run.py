"""What a run of `stream` has for other tools: cameras, pictures as far as they are still there,
depth, points, mesh, comparisons.

Pictures are read again from the source, matched by number and name. What a live stream has shown
can't be: then the frames kept for its comparison serve, while the run is unfinished, and after that
the keyframes of its geometry, which are in the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.captures import Capture, CaptureInfo, Frame, Scale
from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from everview.datasets.resampling import fitted_size, resize
from everview.pipeline.errors import InputRejected
from everview.pipeline.fusion.scene_geometry import MESH_NAME, POINTS_NAME
from everview.pipeline.posing.sfm_source import SfmSource
from everview.pipeline.rendering.ply import Mesh, PointCloud, read_ply
from everview.pipeline.runs import read_metrics, read_run
from everview.pipeline.streaming.frame_tensors import under_prefix
from everview.pipeline.streaming.live_geometry import keyframes_from_tensors
from everview.pipeline.streaming.preparing import read_again
from everview.pipeline.streaming.review import evenly
from everview.pipeline.streaming.snapshots import load_snapshot
from everview.pipeline.streaming.sources.kept import FOLDER as KEPT_FOLDER
from everview.pipeline.streaming.sources.kept import KeptFrames
from everview.pipeline.streaming.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class StreamedRun:
    """An opened run. notes: sentences on what is not there, filled on the way."""

    run: Path
    record: dict[str, Any]
    trajectory: Trajectory
    scale: Scale
    keyframes: tuple[Frame, ...]
    notes: list[str] = field(default_factory=list)

    @property
    def source(self) -> str:
        """What was streamed, as the user named it."""
        return str(self.record["config"]["capture"])

    @property
    def poses(self) -> str:
        """Where its cameras are from, as `--poses` has it."""
        return str(self.record["config"].get("poses", "given"))

    def indices(self) -> list[int]:
        """Of all frames that have a camera, in the order of the stream."""
        observed, held_out = (
            self.trajectory.observed_indices(),
            self.trajectory.held_out_indices(),
        )
        return np.sort(np.concatenate([observed, held_out])).tolist()

    def points(self) -> PointCloud | None:
        """points.ply, if it is there."""
        found = self._solid(POINTS_NAME)
        return found if isinstance(found, PointCloud) else None

    def mesh(self) -> Mesh | None:
        """mesh.ply, if it is there."""
        found = self._solid(MESH_NAME)
        return found if isinstance(found, Mesh) else None

    def _solid(self, name: str) -> Mesh | PointCloud | None:
        file = self.run / name
        if file.is_file():
            return read_ply(file)
        reasons = (read_metrics(self.run) or {}).get("missing") or {}
        self._note(f"{name} is not there: {reasons.get(name, 'the stream has not written it')}")
        return None

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def frames(self, most: int, size: int | None, capture: str | None) -> Iterator[Frame]:
        """At most `most` frames, evenly taken, with the cameras that the stream gave them, at the
        size it saw or with the short side `size`. What can't be read again is in `notes`.

        Raises DataError when no picture is left.
        """
        wanted = evenly(self.indices(), most)
        made = 0
        again = self._source_again(capture)
        if again is not None:
            changed = 0
            try:
                for frame in read_again(again, set(wanted)):
                    if not self._is_same(frame):
                        changed += 1
                        continue
                    made += 1
                    yield self._fitted(frame, size)
            except DataError as error:
                self._note(f"the source could not be read to its end: {error}")
            if made < len(wanted):
                self._note(
                    f"{len(wanted) - made} of {len(wanted)} frames are left out: the source no "
                    "longer has them" + (f" ({changed} have another name now)" if changed else "")
                )
        if not made and capture is None:
            for frame in self.keyframes:
                made += 1
                rows, columns = frame.image.shape[:2]
                size_of_it = min(rows, columns) if size is None else size
                yield resize(frame, *fitted_size(columns, rows, size_of_it, 1))
            self._note(
                f"the source {self.source} can't be read again, so pictures are those of the "
                f"{made} keyframes of the geometry, of {len(self.trajectory)} frames"
            )
        if not made:
            raise DataError(
                f"{self.run}: no picture of {self.source} is left; say with --capture where it is"
            )

    def _source_again(self, capture: str | None) -> Capture | None:
        kept = self.run / KEPT_FOLDER
        if capture is None and kept.is_dir() and any(kept.glob("*.safetensors")):
            info = CaptureInfo(self.source, "kept frames", self.scale, None, True)
            return KeptFrames(self.run, info)
        place = capture or self.source
        try:
            again = open_capture(place)
            # its pictures were rectified by the lenses that were found
            return SfmSource(again).go_back(self.run) if self.poses == "sfm" else again
        except DataError as error:
            if capture is not None:
                raise
            if "://" not in place:
                self._note(f"{error} (--capture says where it is now)")
            return None

    def _is_same(self, frame: Frame) -> bool:
        return self._names.get(frame.index) == frame.name.replace("\n", " ")

    @cached_property
    def _names(self) -> dict[int, str]:
        seen = self.trajectory.seen()
        return {e.index: name for e, name in zip(seen, self.trajectory.names(), strict=True)}

    def _fitted(self, frame: Frame, size: int | None) -> Frame:
        """The frame with the stream's camera, at the size that is asked for."""
        camera = self.trajectory.camera_of(frame.index)
        assert camera is not None
        width, height = camera.width, camera.height
        if size is not None:
            rows, columns = frame.image.shape[:2]
            width, height = fitted_size(columns, rows, size, 1)
        depth = None if self.poses == "learned" else frame.depth  # of another unit than the poses
        resized = resize(
            Frame(frame.index, frame.name, frame.image, None, frame.time_s, depth), width, height
        )
        return Frame(
            frame.index, frame.name, resized.image, camera.resized(width, height), frame.time_s,
            resized.depth,
        )  # fmt: skip


def open_streamed_run(run: Path) -> StreamedRun:
    """Raises InputRejected for a directory that is no run of a stream, or has absorbed nothing."""
    record = read_run(run)
    if record is None or record.get("verb") != "stream":
        raise InputRejected(f"{run} is not a run of `everview stream`: there is no scene in it")
    snapshot = load_snapshot(run)
    if snapshot is None:
        raise InputRejected(f"{run} holds no snapshot yet: let its stream absorb a chunk first")
    fused = snapshot.facts.get("geometry")
    keyframes = () if fused is None else keyframes_from_tensors(
        fused, under_prefix("fused", snapshot.frames)
    )  # fmt: skip
    return StreamedRun(
        run=run,
        record=record,
        trajectory=Trajectory.of_run(run, snapshot.facts["appended"]),
        scale=snapshot.facts["scale"],
        keyframes=tuple(keyframe.frame for keyframe in keyframes),
    )


def finite_depth(depth: np.ndarray) -> np.ndarray:
    """Depth float32 with 0 for what is not a number."""
    return np.nan_to_num(depth.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
