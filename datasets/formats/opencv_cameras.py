"""`opencv_cameras.json` as LaCT's and LVSM's view-synthesis releases read it.

A list of `{file_path, w2c, fx, fy, cx, cy, w, h}` (LaCT), or an object that holds it as `frames`
(other forks). `w2c` is world-to-camera in OpenCV axes; rays go through (i + 0.5, j + 0.5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from everview.datasets.cameras import invert_rigid
from everview.datasets.captures import CaptureInfo, Skip
from everview.datasets.errors import DataError
from everview.datasets.guards import (
    file_exists,
    finite_number,
    image_size,
    path_inside,
    read_json,
)
from everview.datasets.lenses import lens_of
from everview.datasets.listed import FrameRecord, ListedCapture, ReadOptions
from everview.datasets.poses import rigid_pose

FORMAT = "opencv_cameras.json"


def find(path: Path) -> Path | None:
    """The index in a folder, or the file itself if it is JSON with `w2c` frames."""
    if path.is_file():
        if path.suffix != ".json":
            return None
        frames = _frames(read_json(path))
        has_w2c = bool(frames) and isinstance(frames[0], dict) and "w2c" in frames[0]
        return path if path.name == FORMAT or has_w2c else None
    return path / FORMAT if file_exists(path / FORMAT) else None


def read(source: str, index: Path, options: ReadOptions) -> ListedCapture:
    """The frames of an index; those without an image file, or with a broken camera, are skipped."""
    frames = _frames(read_json(index))
    if not frames:
        raise DataError(f"{index} has no list of frames with w2c, fx, fy, cx, cy and file_path")
    records, skipped = [], []
    for number, entry in enumerate(frames):
        name = entry.get("file_path") if isinstance(entry, dict) else None
        name = name if isinstance(name, str) and name else f"frame {number}"
        try:
            records.append(_record(index, entry, options))
        except DataError as error:
            skipped.append(Skip(name, str(error)))
    notes = ("poses: OpenCV world-to-camera, inverted",)
    info = CaptureInfo(source, FORMAT, "up_to_scale", None, True, notes=notes)
    return ListedCapture(info, records, skipped, options)


def _frames(content: Any) -> list[Any]:
    frames = content.get("frames") if isinstance(content, dict) else content
    return frames if isinstance(frames, list) else []


def _record(index: Path, entry: Any, options: ReadOptions) -> FrameRecord:
    if not isinstance(entry, dict):
        raise DataError(f"{index} lists a frame that is not an object")
    image = path_inside(
        index.parent, entry.get("file_path"), allow_external=options.allow_external_paths
    )
    if not file_exists(image):
        raise DataError(f"no image file {image}")
    missing = [key for key in ("w2c", "fx", "fy", "cx", "cy") if key not in entry]
    if missing:
        raise DataError(f"{index} gives no {', '.join(missing)} for this frame")
    numbers = {key: finite_number(entry[key], key, index) for key in ("fx", "fy", "cx", "cy")}
    if "w" in entry and "h" in entry:
        width = round(finite_number(entry["w"], "w", index))
        height = round(finite_number(entry["h"], "h", index))
    else:
        width, height = image_size(image, options.max_pixels)
    try:
        c2w_cv = invert_rigid(rigid_pose(entry["w2c"]))
    except ValueError as error:
        raise DataError(f"{index}: {error}") from None
    lens = lens_of(index, width=width, height=height, **numbers)
    return FrameRecord(entry["file_path"], image, lens, c2w_cv)
