"""COLMAP models, binary and text, parsed within the size of their files.

cameras, images, points3D as in COLMAP's documentation: quaternion scalar first, world-to-camera,
OpenCV axes, first pixel's centre at (0.5, 0.5). Keypoints and tracks are passed over.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from everview.datasets.cameras import invert_rigid
from everview.datasets.errors import DataError
from everview.datasets.guards import file_exists, regular_file, text_lines
from everview.datasets.lenses import Lens, lens_of
from everview.datasets.poses import MAX_DISTANCE, pose_from_quaternion

_MAX_FILE_BYTES = 16 * 2**30
_MAX_NAME_BYTES = 4096

# Id to name and number of parameters.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
PARAMETER_COUNTS = dict(_MODELS.values())
_SINGLE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE",
                 "RADIAL_FISHEYE")  # fmt: skip
_LENS_MODELS = {
    "SIMPLE_PINHOLE": "pinhole",
    "PINHOLE": "pinhole",
    "SIMPLE_RADIAL": "opencv",
    "RADIAL": "opencv",
    "OPENCV": "opencv",
    "FULL_OPENCV": "opencv",
    "OPENCV_FISHEYE": "fisheye",
    "SIMPLE_RADIAL_FISHEYE": "fisheye",
    "RADIAL_FISHEYE": "fisheye",
    "THIN_PRISM_FISHEYE": "thin_prism_fisheye",
    "FOV": "fov",
}


@dataclass(frozen=True)
class ModelImage:
    """One registered image: quaternion scalar FIRST and translation, world-to-camera."""

    name: str
    camera_id: int
    quaternion_wxyz: tuple[float, ...]
    translation: tuple[float, ...]

    def c2w_cv(self) -> np.ndarray:
        """Its pose, float64 [4, 4]. Raises DataError for numbers that are none."""
        w, x, y, z = self.quaternion_wxyz
        try:
            return invert_rigid(pose_from_quaternion((x, y, z, w), self.translation))
        except ValueError as error:
            raise DataError(f"{self.name}: {error}") from None

    def lens(self, lenses: Mapping[int, Lens | DataError]) -> Lens:
        """Its own of a model's. Raises DataError where there is none, or none that can be used."""
        lens = lenses.get(self.camera_id)
        if lens is None:
            raise DataError(f"its camera {self.camera_id} is not in the model")
        if isinstance(lens, DataError):
            raise lens
        return lens


def is_model(folder: Path) -> bool:
    """Whether `folder` holds the cameras and images of a model."""
    return any(
        file_exists(folder / f"cameras.{kind}") and file_exists(folder / f"images.{kind}")
        for kind in ("bin", "txt")
    )


def kind_of(folder: Path) -> str:
    """`bin` if the model is there in binary, else `txt`."""
    return "bin" if file_exists(folder / "images.bin") else "txt"


def read_cameras(folder: Path) -> dict[int, Lens | DataError]:
    """Lenses by camera id; what is wrong with one concerns only its own images."""
    kind = kind_of(folder)
    path = folder / f"cameras.{kind}"
    rows = _cameras_bin(path) if kind == "bin" else _cameras_txt(path)
    lenses: dict[int, Lens | DataError] = {}
    for camera_id, model, width, height, parameters in rows:
        try:
            lenses[camera_id] = lens_of_model(path, model, width, height, parameters)
        except DataError as error:
            lenses[camera_id] = error
    return lenses


def read_images(folder: Path) -> list[ModelImage]:
    """Registered images in the order of the file."""
    kind = kind_of(folder)
    path = folder / f"images.{kind}"
    return list(_images_bin(path) if kind == "bin" else _images_txt(path))


def read_points(folder: Path) -> np.ndarray | None:
    """Sparse points in the world, float32 [N, 3]; None when the model has none."""
    kind = kind_of(folder)
    path = folder / f"points3D.{kind}"
    if not file_exists(path) or path.stat().st_size == 0:
        return None
    numbers = array("d")  # 24 bytes a point, where a list of tuples takes 150
    for point in _points_bin(path) if kind == "bin" else _points_txt(path):
        numbers.extend(point)
    points = np.frombuffer(numbers, np.float64).reshape(-1, 3)
    points = points[(np.abs(points) < MAX_DISTANCE).all(1)].astype(np.float32)
    return points if len(points) else None


def lens_of_model(
    where: Path, model: str, width: int, height: int, parameters: tuple[float, ...]
) -> Lens:
    """The lens of a COLMAP camera. Raises DataError that names the file and the model."""
    expected = PARAMETER_COUNTS.get(model)
    if expected is None:
        raise DataError(f"{where}: camera model {model[:40]} is none of {', '.join(_LENS_MODELS)}")
    if len(parameters) != expected:
        raise DataError(f"{where}: {model} with {len(parameters)}, not {expected} parameters")
    if model in _SINGLE_FOCAL:
        parameters = (parameters[0], *parameters)
    fx, fy, cx, cy, *distortion = parameters
    return lens_of(
        where,
        width=width,
        height=height,
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        model=_LENS_MODELS[model],
        distortion=tuple(distortion),
    )


class _Records:
    """A binary file read from front to back; nothing is believed beyond its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def take(self, layout: str) -> tuple:
        size = struct.calcsize(layout)
        self.skip(size)
        return struct.unpack_from(layout, self.data, self.at - size)

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise DataError(f"{self.path} ends in the middle of a record; copy it again")
        self.at += size

    def count(self, smallest: int) -> int:
        """A stated number of records of at least `smallest` bytes, held against the file's size."""
        (count,) = self.take("<Q")
        if count * smallest > len(self.data) - self.at:
            raise DataError(f"{self.path} states {count} records, more than its size can hold")
        return count

    def name(self) -> str:
        end = self.data.find(b"\0", self.at, self.at + _MAX_NAME_BYTES)
        if end < 0:
            raise DataError(f"{self.path} holds an image name without an end; copy it again")
        raw = self.data[self.at : end]
        self.at = end + 1
        return raw.decode("utf-8", "surrogateescape")


@contextmanager
def _records(path: Path) -> Iterator[_Records]:
    regular_file(path, _MAX_FILE_BYTES)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield _Records(path, data)


CameraRow = tuple[int, str, int, int, tuple[float, ...]]


def _cameras_bin(path: Path) -> list[CameraRow]:
    rows: list[CameraRow] = []
    with _records(path) as records:
        for _ in range(records.count(24 + 3 * 8)):
            camera_id, model_id, width, height = records.take("<iiQQ")
            if model_id not in _MODELS:
                # its length is unknown, so nothing after it can be read either
                raise DataError(f"{path}: camera model {model_id} is not known; undistort first")
            model, count = _MODELS[model_id]
            rows.append((camera_id, model, width, height, records.take(f"<{count}d")))
    return rows


def _images_bin(path: Path) -> Iterator[ModelImage]:
    with _records(path) as records:
        for _ in range(records.count(4 + 7 * 8 + 4 + 1 + 8)):
            _, *pose, camera_id = records.take("<i7di")
            name = records.name()
            records.skip(24 * records.count(24))
            yield ModelImage(name, camera_id, tuple(pose[:4]), tuple(pose[4:]))


def _points_bin(path: Path) -> Iterator[tuple[float, float, float]]:
    with _records(path) as records:
        for _ in range(records.count(8 + 24 + 3 + 8 + 8)):
            _, x, y, z = records.take("<Q3d")
            records.skip(3 + 8)
            records.skip(8 * records.count(8))
            yield x, y, z


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without comments; blank ones included, they mean something in images.txt."""
    for number, line in text_lines(path, _MAX_FILE_BYTES):
        if not line.startswith("#"):
            yield number, line.strip()


def _cameras_txt(path: Path) -> list[CameraRow]:
    rows: list[CameraRow] = []
    for number, line in _lines(path):
        if line:
            cells = line.split()
            try:
                camera_id, width, height = int(cells[0]), int(cells[2]), int(cells[3])
                rows.append((camera_id, cells[1], width, height, tuple(map(float, cells[4:]))))
            except (ValueError, IndexError):
                raise DataError(f"{path}, line {number} is not a camera: {line[:60]!r}") from None
    return rows


def _images_txt(path: Path) -> Iterator[ModelImage]:
    expects_points = False
    for number, line in _lines(path):
        if expects_points and not _is_image_line(line):
            expects_points = False  # keypoints, or the blank line of an image without any
            continue
        if not line:
            continue
        cells = line.split(maxsplit=9)
        try:
            pose = tuple(map(float, cells[1:8]))
            yield ModelImage(cells[9], int(cells[8]), pose[:4], pose[4:])
        except (ValueError, IndexError):
            raise DataError(f"{path}, line {number} is not an image: {line[:60]!r}") from None
        expects_points = True


def _is_image_line(line: str) -> bool:
    """Some writers leave the keypoint line out; a tenth cell that is a name gives it away."""
    cells = line.split(maxsplit=9)
    if len(cells) != 10:
        return False
    try:
        [float(cell) for cell in cells[9].split()]
    except ValueError:
        return True
    return False


def _points_txt(path: Path) -> Iterator[tuple[float, float, float]]:
    for number, line in _lines(path):
        if line:
            try:
                _, x, y, z = map(float, line.split(maxsplit=4)[:4])
            except ValueError:
                raise DataError(f"{path}, line {number} is not a point: {line[:60]!r}") from None
            yield x, y, z
