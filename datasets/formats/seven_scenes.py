"""The 7-Scenes form: `frame-*.color.jpg|png`, `.depth.png`, `.pose.txt`, `camera-intrinsics.txt`.

Poses are camera-to-world in OpenCV axes and metres, one 4x4 a file; depth is in millimetres, and
0 and 65535 both mean unknown. A folder of sequences (`seq-01/`, ...) is read at its first one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from everview.datasets.captures import CaptureInfo, Skip
from everview.datasets.errors import DataError
from everview.datasets.formats.folders import naturally
from everview.datasets.formats.posed_rgbd import lens_from_matrix, read_intrinsics
from everview.datasets.guards import file_exists, image_size, path_inside, read_table
from everview.datasets.lenses import Lens
from everview.datasets.listed import FrameRecord, ListedCapture, ReadOptions
from everview.datasets.poses import rigid_pose

FORMAT = "7-Scenes sequence"
_INTRINSICS = "camera-intrinsics.txt"
_COLOUR_SUFFIXES = (".color.jpg", ".color.png", ".color.jpeg")
_UNKNOWN_DEPTH = (0.0, 65535.0)
# Kinect v1 at 640x480, as the data set's page gives it.
_DEFAULT = np.array([[585.0, 0.0, 320.0], [0.0, 585.0, 240.0], [0.0, 0.0, 1.0]])


def find(path: Path) -> Path | None:
    """The first folder of frames: `path` itself or its first sequence."""
    if not path.is_dir():
        return None
    sequences = sorted(entry for entry in path.glob("seq-*") if entry.is_dir())
    for folder in (path, *sequences):
        if next(folder.glob("frame-*.pose.txt"), None) is not None:
            return folder
    return None


def read(source: str, index: Path, options: ReadOptions) -> ListedCapture:
    """Frames with a colour image and a pose; those that lack one of them are skipped."""
    stems = naturally(
        {p.name.removesuffix(".pose.txt") for p in index.glob("frame-*.pose.txt")}
        | {p.name.split(".color.")[0] for p in index.glob("frame-*.color.*")}
    )
    matrix, size, note = _intrinsics(index)
    lens: Lens | None = None
    records, skipped = [], []
    for stem in stems:
        try:
            image = _colour(index, stem, options)
            if lens is None:
                lens = lens_from_matrix(
                    index, matrix, size or image_size(image, options.max_pixels)
                )
            pose = rigid_pose(read_table(index / f"{stem}.pose.txt", columns=4))
            depth = _depth(index, stem, options)
            records.append(
                FrameRecord(
                    image.name, image, lens, pose, depth=depth, depth_unknown=_UNKNOWN_DEPTH
                )
            )
        except (DataError, ValueError) as error:
            skipped.append(Skip(stem, str(error)))
    notes = (f"{index.name}; {note}; depth in millimetres, 0 and 65535 unknown",)
    info = CaptureInfo(source, FORMAT, "metric", None, True, notes=notes)
    return ListedCapture(info, records, skipped, options)


def _intrinsics(index: Path) -> tuple[np.ndarray, tuple[int, int] | None, str]:
    for folder in (index, index.parent):
        if file_exists(folder / _INTRINSICS):
            return read_intrinsics(folder / _INTRINSICS), None, f"intrinsics from {_INTRINSICS}"
    return _DEFAULT, (640, 480), "no camera-intrinsics.txt, so the sensor's 585 px is assumed"


def _depth(index: Path, stem: str, options: ReadOptions) -> Path | None:
    name = f"{stem}.depth.png"
    if not file_exists(index / name):
        return None
    return path_inside(index, name, allow_external=options.allow_external_paths)


def _colour(index: Path, stem: str, options: ReadOptions) -> Path:
    for suffix in _COLOUR_SUFFIXES:
        if file_exists(index / f"{stem}{suffix}"):
            return path_inside(
                index, f"{stem}{suffix}", allow_external=options.allow_external_paths
            )
    raise DataError(f"no image file {index / stem}.color.jpg or .color.png")
