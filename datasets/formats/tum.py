"""TUM RGB-D sequences, and trajectories in the TUM format.

`rgb.txt`, `depth.txt`: `timestamp file`; `groundtruth.txt`: `timestamp tx ty tz qx qy qz qw`,
camera-to-world, OpenCV axes, metres, scalar LAST. Colour, depth and pose are associated by nearest
time stamp within 20 ms; depth is stored value / 5000 metres, 0 unknown.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from everview.datasets.captures import CaptureInfo, Skip
from everview.datasets.errors import DataError
from everview.datasets.guards import file_exists, image_size, path_inside, read_table, text_lines
from everview.datasets.lenses import Lens, lens_of
from everview.datasets.listed import FrameRecord, ListedCapture, ReadOptions
from everview.datasets.poses import pose_from_quaternion

FORMAT = "TUM RGB-D"
MAX_DIFFERENCE_S = 0.02
_DEPTH_UNIT = 1.0 / 5000.0
_CALIBRATION = "calibration.txt"

# fx, fy, cx, cy, k1, k2, p1, p2, k3 as the benchmark publishes them for 640x480 (OpenCV: the
# first pixel's centre is 0, so half a pixel is added to cx and cy at reading).
_PUBLISHED = {
    "1": (517.3, 516.5, 318.6, 255.3, 0.2624, -0.9531, -0.0054, 0.0026, 1.1633),
    "2": (520.9, 521.0, 325.1, 249.7, 0.2312, -0.7849, -0.0033, -0.0001, 0.9172),
    "3": (535.4, 539.2, 320.1, 247.6, 0.0, 0.0, 0.0, 0.0, 0.0),
}
_DEFAULT = (525.0, 525.0, 319.5, 239.5)


def find(path: Path) -> Path | None:
    """The folder, if it holds `rgb.txt`."""
    return path if file_exists(path / "rgb.txt") else None


def read(source: str, index: Path, options: ReadOptions) -> ListedCapture:
    """The colour images in order of time; those without a pose within 20 ms are skipped."""
    times, names = read_file_list(index / "rgb.txt")
    poses = depths = None
    if file_exists(index / "groundtruth.txt"):
        poses = read_trajectory(index / "groundtruth.txt")
    if file_exists(index / "depth.txt"):
        depths = read_file_list(index / "depth.txt")
    lens: Lens | None = None
    notes: tuple[str, ...] = ()
    records, skipped = [], []
    for time_s, name in zip(times, names, strict=True):
        try:
            image = path_inside(index, name, allow_external=options.allow_external_paths)
            if not file_exists(image):
                raise DataError(f"no image file {image}")
            pose = None
            if lens is None and (poses is not None or depths is not None):
                lens, notes = _lens(index, image_size(image, options.max_pixels))
            if poses is not None:
                pose = poses[1][_nearest(poses[0], time_s, "pose")]
                if not np.isfinite(pose).all():
                    raise DataError("its pose holds values that are not finite")
            depth = _depth(index, depths, time_s, options)
            records.append(FrameRecord(name, image, lens, pose, float(time_s), depth, _DEPTH_UNIT))
        except DataError as error:
            skipped.append(Skip(name, str(error)))
    notes = ("associated by nearest time stamp within 20 ms; depth in 1/5000 m", *notes)
    info = CaptureInfo(source, FORMAT, "metric", None, poses is not None, notes=notes)
    return ListedCapture(info, records, skipped, options)


def read_file_list(path: Path) -> tuple[np.ndarray, list[str]]:
    """Time stamps float64 [N], ascending, and the file name of each."""
    times, names = [], []
    for number, line in text_lines(path):
        cells = line.split("#", 1)[0].split(maxsplit=1)
        if not cells:
            continue
        try:
            time_s, name = float(cells[0]), cells[1].strip()
        except (ValueError, IndexError):
            raise DataError(
                f"{path}, line {number} is not `timestamp file`: {line.strip()[:50]!r}"
            ) from None
        if not np.isfinite(time_s):
            raise DataError(f"{path}, line {number} has a time stamp that is not finite")
        times.append(time_s)
        names.append(name)
    if not times:
        raise DataError(f"{path} lists no files; copy it again from its source")
    order = np.argsort(times, kind="stable")
    return np.array(times)[order], [names[i] for i in order]


def read_trajectory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Time stamps float64 [N], ascending, and c2w_cv float64 [N, 4, 4]; broken poses are NaN.

    Raises DataError when no pose at all is usable.
    """
    rows = read_table(path, columns=8)
    rows = rows[np.isfinite(rows[:, 0])]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    poses = np.full((len(rows), 4, 4), np.nan)
    for number, row in enumerate(rows):
        try:
            poses[number] = pose_from_quaternion(row[4:8], row[1:4])
        except ValueError:
            continue
    if not np.isfinite(poses).all((1, 2)).any():
        raise DataError(f"{path} has no usable pose (`timestamp tx ty tz qx qy qz qw`)")
    return rows[:, 0], poses


def _nearest(times: np.ndarray, time_s: float, what: str) -> int:
    after = int(np.searchsorted(times, time_s))
    candidates = [i for i in (after - 1, after) if 0 <= i < len(times)]
    best = min(candidates, key=lambda i: abs(times[i] - time_s))
    if abs(times[best] - time_s) > MAX_DIFFERENCE_S:
        raise DataError(f"no {what} within {MAX_DIFFERENCE_S} s of {time_s:.4f} s")
    return best


def _depth(
    index: Path, depths: tuple[np.ndarray, list[str]] | None, time_s: float, options: ReadOptions
) -> Path | None:
    """The depth map nearest in time; None where there is none: the colour is still of use."""
    if depths is None:
        return None
    try:
        name = depths[1][_nearest(depths[0], time_s, "depth")]
    except DataError:
        return None
    path = path_inside(index, name, allow_external=options.allow_external_paths)
    return path if file_exists(path) else None


def _lens(index: Path, size: tuple[int, int]) -> tuple[Lens, tuple[str, ...]]:
    """From `calibration.txt` (`fx fy cx cy [k1 k2 p1 p2 [k3]]`), else as published."""
    width, height = 640, 480
    if file_exists(index / _CALIBRATION):
        numbers = tuple(read_table(index / _CALIBRATION, columns=(4, 8, 9))[0])
        width, height = size
        origin = f"intrinsics from {_CALIBRATION}"
    else:
        named = re.search(r"freiburg([123])", index.resolve().name)
        numbers = _PUBLISHED[named[1]] if named else _DEFAULT
        origin = f"intrinsics as published for freiburg{named[1]}" if named else (
            f"intrinsics assumed (the sensor's default); write fx fy cx cy into {_CALIBRATION}"
        )  # fmt: skip
    fx, fy, cx, cy, *distortion = map(float, numbers)
    lens = lens_of(
        index, width=width, height=height, fx=fx, fy=fy, cx=cx + 0.5, cy=cy + 0.5,
        model="opencv", distortion=tuple(distortion),
    )  # fmt: skip
    return lens, (f"{origin}; half a pixel added to the principal point (OpenCV convention)",)
