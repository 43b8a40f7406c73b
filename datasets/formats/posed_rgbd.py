"""RGB-D folders: `K.txt`, `poses_c2w.txt`, images, and `*_depth.png` beside them.

`K.txt`: 3x3, pixels, read in our convention (first pixel's centre at 0.5). `poses_c2w.txt`: one
row-major camera-to-world a line, OpenCV axes, metres, in the order of the sorted image names.
Depth: 16-bit millimetres, 0 unknown; colour-only folders are read too. Without `poses_c2w.txt` the
frames have no cameras, and the capture states its lens alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from everview.datasets.captures import CaptureInfo, Skip
from everview.datasets.errors import DataError
from everview.datasets.formats.folders import image_names
from everview.datasets.guards import file_exists, image_size, path_inside, read_table
from everview.datasets.lenses import Lens, lens_of
from everview.datasets.listed import FrameRecord, ListedCapture, ReadOptions
from everview.datasets.poses import rigid_pose

FORMAT = "posed RGB-D folder"
_POSES, _INTRINSICS = "poses_c2w.txt", "K.txt"
_COLOUR_FOLDERS = ("", "color", "rgb", "images")


def find(path: Path) -> Path | None:
    """The folder, if it holds the table of poses (a missing `K.txt` is then said, not guessed), or
    intrinsics beside images."""
    if file_exists(path / _POSES):
        return path
    is_unposed = file_exists(path / _INTRINSICS) and _colour_folder(path) is not None
    return path if is_unposed else None


def read(source: str, index: Path, options: ReadOptions) -> ListedCapture:
    """The frames of a folder. Raises DataError when poses and images differ in number."""
    folder, names = _colour_images(index)
    poses = _poses(index, folder, names) if file_exists(index / _POSES) else None
    external = options.allow_external_paths
    records, skipped = [], []
    lens: Lens | None = None
    matrix = read_intrinsics(index / _INTRINSICS)
    for place, name in enumerate(names):
        try:
            image = path_inside(folder, name, allow_external=external)
            lens = lens or _lens(index, matrix, image, options)
            pose = None if poses is None else rigid_pose(poses[place].reshape(-1, 4))
            depth = _depth_of(index, folder, name, external)
            records.append(FrameRecord(name, image, lens, pose, depth=depth))
        except (DataError, ValueError) as error:
            skipped.append(Skip(name, str(error)))
    said = "no poses" if poses is None else "poses: OpenCV camera-to-world in metres"
    notes = (f"{said}; depth in millimetres, 0 unknown",)
    info = CaptureInfo(source, FORMAT, "metric", None, poses is not None, notes=notes)
    return ListedCapture(info, records, skipped, options)


def _poses(index: Path, folder: Path, names: list[str]) -> np.ndarray:
    """One row for each image."""
    poses = read_table(index / _POSES, columns=(16, 12))
    if len(poses) != len(names):
        raise DataError(
            f"{index / _POSES} has {len(poses)} poses for {len(names)} images in {folder}; they "
            "must be one line an image"
        )
    if not np.isfinite(poses).all(1).any():
        raise DataError(f"{index / _POSES} has no pose that is finite")
    return poses


def read_intrinsics(path: Path) -> np.ndarray:
    """A 3x3 (or the upper left of a 4x4) intrinsic matrix from a text file, float64 [3, 3]."""
    matrix = read_table(path)
    if matrix.shape not in ((3, 3), (4, 4), (3, 4)):
        raise DataError(f"{path} holds {matrix.shape[0]}x{matrix.shape[1]} numbers, expected 3x3")
    if not np.isfinite(matrix).all():
        raise DataError(f"{path} holds intrinsics that are not finite")
    if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise DataError(f"{path}: focal lengths {matrix[0, 0]}, {matrix[1, 1]} are not positive")
    return matrix[:3, :3]


def lens_from_matrix(where: Path, matrix: np.ndarray, size: tuple[int, int]) -> Lens:
    """A pinhole lens of an image size (width, height)."""
    return lens_of(
        where,
        width=size[0],
        height=size[1],
        fx=float(matrix[0, 0]),
        fy=float(matrix[1, 1]),
        cx=float(matrix[0, 2]),
        cy=float(matrix[1, 2]),
    )


def _lens(index: Path, matrix: np.ndarray, image: Path, options: ReadOptions) -> Lens:
    return lens_from_matrix(index / _INTRINSICS, matrix, image_size(image, options.max_pixels))


def _colour_images(index: Path) -> tuple[Path, list[str]]:
    found = _colour_folder(index)
    if found is None:
        raise DataError(f"{index} has {_POSES} but no images")
    return found


def _colour_folder(index: Path) -> tuple[Path, list[str]] | None:
    for name in _COLOUR_FOLDERS:
        folder = index / name
        if folder.is_dir():
            found = [n for n in image_names(folder) if not Path(n).stem.endswith("_depth")]
            if found:
                return folder, found
    return None


def _depth_of(index: Path, folder: Path, name: str, external: bool) -> Path | None:
    """`00000_depth.png` beside `00000.jpg`, or `depth/00000.png`; None if there is neither."""
    stem = Path(name).stem
    for candidate in (folder / f"{stem}_depth.png", index / "depth" / f"{stem}.png"):
        if file_exists(candidate):
            return path_inside(index, str(candidate.relative_to(index)), allow_external=external)
    return None
