"""The stream's cameras for other tools: trajectory_tum.txt and transforms.json."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from everview.datasets.captures import Scale
from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.datasets.writers.tum_trajectory import write_tum_trajectory
from everview.pipeline.streaming.trajectory import Trajectory


def write_cameras(out: Path, trajectory: Trajectory, scale: Scale) -> None:
    """Write the cameras of all frames, at the size the model saw them, frame by frame."""
    write_trajectory(out / "trajectory_tum.txt", trajectory)
    write_transforms_json(out / "transforms.json", _Posed(trajectory), scale)


def write_trajectory(file: Path, trajectory: Trajectory) -> None:
    """Write all frames' as TUM lines. Those need ascending times; without, frames are numbered."""
    times = itertools.chain([-math.inf], trajectory.times())
    ascends = all(a is not None and b is not None and a < b for a, b in pairwise(times))
    known = (time_s for time_s in trajectory.times() if time_s is not None)
    cameras = (seen.camera for seen in trajectory.seen())
    write_tum_trajectory(file, cameras, known if ascends else None)


@dataclass(frozen=True)
class _Posed:
    """The frames of a trajectory for a writer, from the start every time it is gone through."""

    trajectory: Trajectory

    def __iter__(self) -> Iterator[PosedImage]:
        for name, seen in zip(self.trajectory.names(), self.trajectory.seen(), strict=True):
            yield PosedImage(name, seen.camera, seen.time_s)
