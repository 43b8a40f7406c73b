"""Trajectories in the TUM format, as evo and the RGB-D benchmarks read them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.poses import quaternion_xyzw
from everview.datasets.writers.atomic import written_atomically


def write_tum_trajectory(
    path: Path, cameras: Iterable[Camera], times_s: Iterable[float] | None = None
) -> None:
    """Write `timestamp tx ty tz qx qy qz qw` lines: camera-to-world, OpenCV axes, scalar LAST.

    times_s: seconds, ascending; None numbers the cameras 0, 1, 2, ... Both are taken one by one.
    Raises ValueError when times don't match the cameras or don't ascend.
    """
    stamps = itertools.count() if times_s is None else times_s
    before = -np.inf
    with written_atomically(Path(path)) as file:
        file.write("# timestamp tx ty tz qx qy qz qw (camera-to-world, OpenCV axes)\n")
        for stamp, camera in zip(stamps, cameras, strict=times_s is not None):
            if not np.isfinite(stamp) or stamp <= before:
                raise ValueError("the time stamps of a trajectory must be finite and ascend")
            before = stamp
            numbers = (stamp, *camera.centre, *quaternion_xyzw(camera.c2w_cv[:3, :3]))
            file.write(" ".join(repr(float(number)) for number in numbers) + "\n")
