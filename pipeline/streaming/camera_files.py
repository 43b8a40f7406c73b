"""The stream's cameras for other tools: trajectory_tum.txt and transforms.json."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from everview.datasets.cameras import Camera
from everview.datasets.captures import Scale
from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.datasets.writers.tum_trajectory import write_tum_trajectory
from everview.pipeline.streaming.trajectory import Trajectory


def write_cameras(out: Path, trajectory: Trajectory, scale: Scale) -> None:
    """Write the cameras of all frames, at the size the model saw them."""
    cameras, times = trajectory.cameras(), trajectory.times()
    write_trajectory(out / "trajectory_tum.txt", cameras, times)
    images = [
        PosedImage(name, camera, time)
        for name, camera, time in zip(trajectory.names, cameras, times, strict=True)
    ]
    write_transforms_json(out / "transforms.json", images, scale)


def write_trajectory(
    file: Path, cameras: Sequence[Camera], times_s: Sequence[float | None]
) -> None:
    """Write a TUM trajectory. It needs ascending times; without them, frames are numbered."""
    known = [time for time in times_s if time is not None]
    ascends = len(known) == len(times_s) and all(a < b for a, b in pairwise(known))
    write_tum_trajectory(file, cameras, known if ascends else None)
