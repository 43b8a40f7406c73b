"""Camera paths from files: a `transforms.json` or a TUM trajectory, in the capture's world.

Only cameras are read; images that the file names are not looked for.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from everview.datasets.cameras import Camera, opencv_from_opengl
from everview.datasets.errors import DataError
from everview.pipeline.rendering.paths import CameraPath

_MAX_BYTES = 64 * 2**20
_MAX_CAMERAS = 100_000


def path_from_file(file: Path, lens: Camera) -> CameraPath:
    """Read a camera path; cameras without intrinsics of their own take `lens`'s.

    `transforms.json`: OpenGL camera-to-world in `transform_matrix`, intrinsics per file or per
    frame, `time` in seconds. TUM: lines of `time tx ty tz qx qy qz qw`, camera-to-world, OpenCV
    axes, scalar last. Raises DataError naming the file and the entry.
    """
    try:
        size = file.stat().st_size
        if size > _MAX_BYTES:
            raise DataError(f"{file} has {size} bytes; a camera path may have {_MAX_BYTES}")
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} can't be read as a camera path: {error}") from error
    read = _from_transforms if text.lstrip().startswith("{") else _from_tum
    path = read(file, text, lens)
    if not path.cameras:
        raise DataError(f"{file} holds no cameras: nothing to render")
    return path


def _from_transforms(file: Path, text: str, lens: Camera) -> CameraPath:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    frames = table.get("frames") if isinstance(table, dict) else None
    if not isinstance(frames, list) or len(frames) > _MAX_CAMERAS:
        raise DataError(f"{file} has no list `frames` of at most {_MAX_CAMERAS} cameras")
    cameras, times = [], []
    for index, frame in enumerate(frames):
        try:
            if not isinstance(frame, dict):
                raise ValueError("not an object")
            pose = opencv_from_opengl(np.asarray(frame["transform_matrix"], np.float64))
            cameras.append(_intrinsics({**table, **frame}, lens).moved(pose))
            time = frame.get("time")
            times.append(None if time is None else float(time))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}: frame {index} is not a camera: {error}") from error
    return CameraPath(file.stem, tuple(cameras), tuple(times))


def _intrinsics(entry: dict[str, Any], lens: Camera) -> Camera:
    if "fl_x" in entry and "w" in entry and "h" in entry:
        width, height, fx = int(entry["w"]), int(entry["h"]), float(entry["fl_x"])
        fy = float(entry.get("fl_y", fx))
        cx, cy = float(entry.get("cx", width / 2)), float(entry.get("cy", height / 2))
        return Camera(width, height, fx, fy, cx, cy, np.eye(4))
    if "camera_angle_x" in entry:
        fx = 0.5 * lens.width / math.tan(0.5 * float(entry["camera_angle_x"]))
        return Camera(
            lens.width, lens.height, fx, fx, lens.width / 2, lens.height / 2, np.eye(4)
        )  # fmt: skip
    return lens


def _from_tum(file: Path, text: str, lens: Camera) -> CameraPath:
    cameras, times = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            time, *pose = (float(word) for word in line.split())
            if len(pose) != 7 or not np.isfinite([time, *pose]).all():
                raise ValueError("expected 8 finite numbers: time tx ty tz qx qy qz qw")
            matrix = np.eye(4)
            matrix[:3, :3] = Rotation.from_quat(pose[3:]).as_matrix()
            matrix[:3, 3] = pose[:3]
            cameras.append(lens.moved(matrix))
            times.append(time)
        except ValueError as error:
            raise DataError(f"{file}: line {number} is not a pose: {error}") from error
        if len(cameras) > _MAX_CAMERAS:
            raise DataError(f"{file} holds more than {_MAX_CAMERAS} cameras")
    return CameraPath(file.stem, tuple(cameras), tuple(times))
