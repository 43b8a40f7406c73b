"""Cameras for a video that has none of its own: lines that say where it was, and when.

The file has the form of `frames.jsonl` (`growing_index`), with times in place of file names, and
may still be growing while the video runs:

    {"w": 640, "h": 480, "fl_x": 500.0, "cx": 320.0, "cy": 240.0, "world_scale": "metric"}
    {"time": 0.000, "transform_matrix": [[..], [..], [..], [..]]}
    {"time": 0.033, "transform_matrix": ...}

`time` is in seconds since the video's first frame and rises; `transform_matrix` is camera-to-world
in OpenGL axes, as in transforms.json; the intrinsics are those of the upright picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from everview.datasets.cameras import opencv_from_opengl
from everview.datasets.captures import Scale
from everview.datasets.errors import DataError
from everview.datasets.formats.growing_index import FrameLines
from everview.datasets.formats.transforms_json import SCALES, stated_lens
from everview.datasets.guards import finite_number
from everview.datasets.lenses import Lens
from everview.datasets.poses import rigid_pose


@dataclass(frozen=True, eq=False)
class TimedPose:
    """Where the camera was at a time, as a line says it."""

    time_s: float
    c2w_cv: np.ndarray


class CameraLines:
    """The lens, and the pose nearest to a time; lines before the last time asked are let go."""

    def __init__(self, path: Path, within_s: float = 0.02) -> None:
        """within_s: a pose further away in time than this is not the frame's."""
        self.path, self.within_s = path, within_s
        self._lines = FrameLines(path)
        self._poses: list[TimedPose] = []

    def look(self) -> None:
        """Read what was added. Raises DataError for a line that can't be used."""
        for entry in self._lines.look():
            pose = self._pose(entry)
            if self._poses and pose.time_s <= self._poses[-1].time_s:
                raise DataError(f"{self.path}: time {pose.time_s} s doesn't move on; lines rise")
            self._poses.append(pose)

    @property
    def scale(self) -> Scale | None:
        """The unit of the world as the head states it; None before there is a head."""
        head = self._lines.head
        if head is None:
            return None
        stated = head.get("world_scale", "up_to_scale")
        if stated not in SCALES:
            raise DataError(f"{self.path}: world_scale is none of {', '.join(SCALES)}")
        return stated

    def lens(self) -> Lens:
        """What the head states. Raises DataError when it is no lens."""
        head = self._lines.head or {}
        if "w" not in head or "h" not in head:
            raise DataError(f"{self.path}: the first line states no w and h")
        return stated_lens(head, self.path)

    def reaches(self, time_s: float) -> bool:
        """Whether no line that is still to come can be nearer to this time."""
        return bool(self._poses) and self._poses[-1].time_s >= time_s

    def pose_at(self, time_s: float) -> np.ndarray | None:
        """The nearest c2w_cv [4, 4]; None when it is too far in time. Times asked rise."""
        while len(self._poses) > 1 and self._poses[1].time_s <= time_s:
            self._poses.pop(0)
        near = min(self._poses[:2], key=lambda pose: abs(pose.time_s - time_s), default=None)
        if near is None or abs(near.time_s - time_s) > self.within_s:
            return None
        return near.c2w_cv

    def _pose(self, entry: dict[str, Any]) -> TimedPose:
        time_s = finite_number(entry.get("time"), "time", self.path)
        try:
            return TimedPose(time_s, opencv_from_opengl(rigid_pose(entry.get("transform_matrix"))))
        except ValueError as error:
            raise DataError(f"{self.path}, at {time_s} s: {error}") from None
