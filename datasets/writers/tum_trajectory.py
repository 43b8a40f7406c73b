"""Trajectories in the TUM format, as evo and the RGB-D benchmarks read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.poses import quaternion_xyzw
from everview.datasets.writers.atomic import write_atomically


def write_tum_trajectory(
    path: Path, cameras: Sequence[Camera], times_s: Sequence[float] | None = None
) -> None:
    """Write `timestamp tx ty tz qx qy qz qw` lines: camera-to-world, OpenCV axes, scalar LAST.

    times_s: seconds, ascending; None numbers the cameras 0, 1, 2, ...
    Raises ValueError when times don't match the cameras or don't ascend.
    """
    stamps = np.arange(len(cameras), dtype=np.float64) if times_s is None else np.array(times_s)
    if len(stamps) != len(cameras):
        raise ValueError(f"{len(stamps)} times for {len(cameras)} cameras")
    if not np.isfinite(stamps).all() or (np.diff(stamps) <= 0).any():
        raise ValueError("the time stamps of a trajectory must be finite and ascend")
    lines = ["# timestamp tx ty tz qx qy qz qw (camera-to-world, OpenCV axes)\n"]
    for stamp, camera in zip(stamps, cameras, strict=True):
        numbers = (stamp, *camera.centre, *quaternion_xyzw(camera.c2w_cv[:3, :3]))
        lines.append(" ".join(repr(float(number)) for number in numbers) + "\n")
    write_atomically(Path(path), "".join(lines))
