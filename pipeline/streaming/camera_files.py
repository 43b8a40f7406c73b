"""The stream's cameras for other tools: trajectory_tum.txt and transforms.json."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from everview.datasets.captures import Scale
from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.datasets.writers.tum_trajectory import write_tum_trajectory
from everview.pipeline.streaming.trajectory import Trajectory


def write_cameras(out: Path, trajectory: Trajectory, scale: Scale) -> None:
    """Write the cameras of all frames, at the size the model saw them.

    A trajectory needs ascending times; where the capture has none, frames are numbered.
    """
    cameras, times = trajectory.cameras(), trajectory.times()
    known = [time for time in times if time is not None]
    ascends = len(known) == len(times) and all(a < b for a, b in pairwise(known))
    write_tum_trajectory(out / "trajectory_tum.txt", cameras, known if ascends else None)
    images = [
        PosedImage(name, camera, time)
        for name, camera, time in zip(trajectory.names, cameras, times, strict=True)
    ]
    write_transforms_json(out / "transforms.json", images, scale)
