"""A camera path by its name or its file, with everything else taken from the capture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.resampling import fitted_size
from everview.pipeline.errors import UsageError
from everview.pipeline.rendering.path_files import path_from_file
from everview.pipeline.rendering.paths import (
    PATH_NAMES,
    CameraPath,
    interpolate,
    orbit,
    spiral,
    still,
)
from everview.pipeline.rendering.survey import Survey

_BUILDERS = {"orbit": orbit, "spiral": spiral, "interpolate": interpolate, "still": still}


def choose_path(
    name: str,
    layout: Survey,
    frames: int,
    size: int,
    patch: int,
    time_s: float | Literal["sweep"] | None = None,
) -> CameraPath:
    """The path `name`: orbit, spiral, interpolate, still, `auto`, or a file of cameras.

    auto: orbit where the cameras stand around something, interpolate where they walk. size: short
    side in pixels; both sides are rounded to `patch`. time_s: of every picture, or `sweep`, from
    the stream's first moment to its last; default: the times of an interpolated or read path, else
    the middle of the stream.
    Raises UsageError for a name that is neither and for a sweep through a stream without times,
    DataError for a file that can't be used.
    """
    if frames < 1:
        raise UsageError(f"--frames {frames}: a path has at least one frame")
    fixed = None if time_s == "sweep" else time_s
    if name == "auto":
        name = "orbit" if layout.is_inward else "interpolate"
    if name in _BUILDERS:
        path = _BUILDERS[name](layout, frames, fixed)
    elif Path(name).is_file():
        path = path_from_file(Path(name), layout.middle)
        if fixed is not None:
            path = replace(path, time_s=(fixed,) * len(path.cameras))
    else:
        known = ", ".join(PATH_NAMES)
        raise UsageError(f"--path {name}: not one of {known}, and no file of that name")
    if time_s == "sweep":
        path = replace(path, time_s=_swept(layout, len(path.cameras)))
    elif all(time is None for time in path.time_s):
        path = replace(path, time_s=(_middle_time(layout),) * len(path.cameras))
    return replace(path, cameras=tuple(fit_camera(c, size, patch) for c in path.cameras))


def fit_camera(camera: Camera, size: int, patch: int) -> Camera:
    """The camera with its short side at `size` pixels, both sides multiples of `patch`."""
    return camera.resized(*fitted_size(camera.width, camera.height, size, patch))


def _swept(layout: Survey, count: int) -> tuple[float, ...]:
    known = [time for time in layout.times_s if time is not None]
    if not known:
        raise UsageError("--time sweep: the frames of this stream had no time stamps")
    return tuple(np.linspace(min(known), max(known), count).tolist())


def _middle_time(layout: Survey) -> float | None:
    known = sorted(time for time in layout.times_s if time is not None)
    return known[len(known) // 2] if known else None
