"""`--poses sfm`: the cameras of a finished capture from its pictures alone, before it is streamed.

    RUN/sfm/sparse/      the COLMAP model, for other tools and for going on
    RUN/sfm/found.json   how many frames there were, the reprojection error, the errors against the
                         poses that the capture states, if it does

Both appear whole or not at all; a run that is continued uses them and looks for nothing again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.captures import Capture, Frame
from everview.datasets.errors import DataError
from everview.pipeline.errors import InputRejected
from everview.pipeline.posing.posed_capture import PosedCapture
from everview.pipeline.posing.trajectory_errors import TrajectoryErrors
from everview.pipeline.preparing.poses_by_sfm import (
    RecoveredPoses,
    posed_frame,
    read_poses,
    recover_poses,
)
from everview.pipeline.runs.atomic import write_json
from everview.pipeline.runs.metrics import read_json_object
from everview.pipeline.streaming.sources.captured import CapturedSource

FOLDER = "sfm"
_LEAST_REGISTERED = 0.7
_SEED = 0


class SfmSource(CapturedSource):
    """A capture, posed when the run begins. errors: against the poses it states, if it does,
    in its own unit, `capture_scale`."""

    def __init__(self, capture: Capture) -> None:
        """Raises DataError for a capture without frames to look at."""
        super().__init__(capture)
        self.errors = TrajectoryErrors()
        self.capture_scale = capture.info.scale
        self.info = replace(
            capture.info, has_cameras=True, has_depth=False, scale="up_to_scale", points_world=None
        )

    def begin(self, run: Path, say: Callable[[str], None]) -> None:
        """Find the poses, or read those that an earlier attempt found. Raises DataError when too
        few frames get one, InputRejected when what was found is damaged."""
        found = self._found_before(run / FOLDER) or self._find(run / FOLDER, say)
        name = self.info.source
        say(
            f"{name}: {len(found.c2w_cv)} of {found.num_frames} frames registered "
            f"({found.registered:.0%}), reprojection error {found.error_px:.2f} px"
        )
        self._pose(found)

    def go_back(self, run: Path) -> Capture:
        """The frames as they were streamed, by what a run has found. Raises DataError where it has
        found nothing, InputRejected when that is damaged."""
        found = self._found_before(run / FOLDER)
        if found is None:
            raise DataError(f"{run / FOLDER} is not there, and with it the cameras of its frames")
        self._pose(found)
        return self.capture

    def _pose(self, found: RecoveredPoses) -> None:
        self.capture.rewind()
        self.info = replace(self.info, points_world=found.points_world)
        self.capture = PosedCapture(
            self.capture,
            lambda frame: posed_frame(frame, found),
            self.info,
            f"by sfm {_digest(found)}",
        )

    def _found_before(self, folder: Path) -> RecoveredPoses | None:
        facts = read_json_object(folder / "found.json")
        if facts is None:
            return None
        try:
            self.errors = TrajectoryErrors.from_facts(facts["errors"])
            return read_poses(folder, int(facts["frames"]), float(facts["error_px"]))
        except (DataError, KeyError, ValueError, TypeError) as error:
            raise InputRejected(
                f"{folder} holds poses that can't be read again: {error}; start over with --fresh"
            ) from None

    def _find(self, folder: Path, say: Callable[[str], None]) -> RecoveredPoses:
        known: dict[int, np.ndarray] = {}

        def noted() -> Iterator[Frame]:
            for frame in self.capture:
                if frame.camera is not None:
                    known[frame.index] = frame.camera.c2w_cv
                yield frame

        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{FOLDER}-", dir=folder.parent) as work:
            found = recover_poses(
                noted(),
                self.info.source,
                Path(work),
                is_ordered=self.capture.info.has_time,
                is_pinhole=self.capture.info.has_cameras or self.capture.info.lens is not None,
                threads=len(os.sched_getaffinity(0)),
                seed=_SEED,
                progress=_Told(say),
            )
            if found.registered < _LEAST_REGISTERED:
                raise DataError(
                    f"{self.info.source}: poses could be found for {len(found.c2w_cv)} of "
                    f"{found.num_frames} frames, fewer than {_LEAST_REGISTERED:.0%}, so they are "
                    "not to be trusted; take pictures with more overlap, or give poses"
                )
            for index in sorted(found.c2w_cv.keys() & known.keys()):
                self.errors.add(found.c2w_cv[index], known[index])
            folder.mkdir()
            (Path(work) / "sparse").rename(folder / "sparse")
        facts: dict[str, Any] = {"frames": found.num_frames, "registered": len(found.c2w_cv)}
        facts |= {"error_px": found.error_px, "errors": self.errors.to_facts()}
        write_json(folder / "found.json", facts)  # last: without it nothing was found
        return found


def _digest(found: RecoveredPoses) -> str:
    poses = np.stack([found.c2w_cv[index] for index in sorted(found.c2w_cv)])
    return hashlib.blake2b(poses.tobytes(), digest_size=16).hexdigest()


class _Told:
    """Progress as lines, where there is no bar: each stage as it begins, and every quarter."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self._last: tuple[str, int] | None = None

    def step(self, stage: str, done: int, total: int | None) -> None:
        quarter = 0 if not total else 4 * done // total
        if self._last != (stage, quarter):
            self._last = stage, quarter
            self.say(f"poses from pictures: {stage} {done}" + (f" of {total}" if total else ""))
