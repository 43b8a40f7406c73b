"""`transforms.json` as nerfstudio, instant-ngp, Blender and DL3DV write it.

`transform_matrix` is camera-to-world in OpenGL axes. Pixel coordinates agree with ours (COLMAP's
half-pixel centres). Depth is 16- or 32-bit in millimetres, 0 unknown, in the poses' unit after
`applied_scale`. Masks: black means ignore. DL3DV keeps its images as `images_4/` or `images_8/`
beside intrinsics for the full size: the intrinsics follow the images that are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from everview.datasets.cameras import opencv_from_opengl
from everview.datasets.captures import CaptureInfo, Scale, Skip
from everview.datasets.errors import DataError, FileMissing
from everview.datasets.guards import (
    file_exists,
    finite_number,
    image_size,
    path_inside,
    read_json,
)
from everview.datasets.lenses import Lens, lens_of
from everview.datasets.listed import FrameRecord, ListedCapture, ReadOptions
from everview.datasets.poses import rigid_pose

FORMAT = "transforms.json"
INDEX_NAMES = ("transforms.json", "transforms_train.json")
_SUBFOLDERS = ("", "nerfstudio")  # DL3DV puts the index one folder down
_REDUCED = ("images_2", "images_4", "images_8")
SCALES: Final[tuple[Scale, ...]] = ("metric", "up_to_scale", "normalised")
_INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y",
               "k1", "k2", "k3", "k4", "p1", "p2", "camera_model", "is_fisheye")  # fmt: skip
_MODELS = {
    "PINHOLE": "pinhole",
    "SIMPLE_PINHOLE": "pinhole",
    "PERSPECTIVE": "opencv",
    "OPENCV": "opencv",
    "FULL_OPENCV": "opencv",
    "SIMPLE_RADIAL": "opencv",
    "RADIAL": "opencv",
    "OPENCV_FISHEYE": "fisheye",
    "FISHEYE": "fisheye",
}


def find(path: Path) -> Path | None:
    """The index in a folder, or the file itself if it is JSON with `transform_matrix` frames."""
    if path.is_file():
        return path if path.suffix == ".json" and _has_gl_frames(path) else None
    for folder in _SUBFOLDERS:
        for name in INDEX_NAMES:
            if file_exists(path / folder / name):
                return path / folder / name
    return None


def _has_gl_frames(path: Path) -> bool:
    if path.name.startswith("transforms"):
        return True
    content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    return bool(frames) and isinstance(frames, list) and "transform_matrix" in frames[0]


def read(source: str, index: Path, options: ReadOptions) -> ListedCapture:
    """The frames of an index; those without an image file, or with a broken pose, are skipped."""
    content = read_json(index)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames:
        raise DataError(f"{index} has no list of frames; it is not a nerfstudio transforms.json")
    reader = FrameReader(index, content, options)
    records, skipped = [], []
    for number, entry in enumerate(frames):
        name = entry.get("file_path") if isinstance(entry, dict) else None
        name = name if isinstance(name, str) and name else f"frame {number}"
        try:
            records.append(reader.record(entry))
        except DataError as error:
            skipped.append(Skip(name, str(error)))
    scale, notes = reader.scale(records)
    info = CaptureInfo(source, _flavour(content, index, records), scale, None, True, notes=notes)
    return ListedCapture(info, records, skipped, options)


class FrameReader:
    """The global part of one index, checked once, and the frames read against it."""

    def __init__(self, index: Path, content: Mapping[str, Any], options: ReadOptions) -> None:
        self.index = index
        self.root = index.parent
        self.content = content
        self.options = options
        self.shared: Lens | None = None
        self.applied_scale = 1.0
        self.num_without_depth = 0
        if "applied_scale" in content:
            self.applied_scale = finite_number(content["applied_scale"], "applied_scale", index)
        if "fl_x" in content or "camera_angle_x" in content:
            self.shared = self._shared_lens()

    def _shared_lens(self) -> Lens | None:
        """The global lens; None when the size is only in the images."""
        if "w" in self.content and "h" in self.content:
            return stated_lens(self.content, self.index)
        # Values are checked now, against any size, so that a bad file fails as a whole.
        stated_lens({**self.content, "w": 2, "h": 2}, self.index)
        return None

    def record(self, entry: Any) -> FrameRecord:
        """One frame; DataError when it can't be used, FileMissing when its files aren't there."""
        if not isinstance(entry, dict):
            raise DataError(f"{self.index} lists a frame that is not an object")
        image = self._image(entry.get("file_path"))
        if "transform_matrix" not in entry:
            raise DataError(f"{self.index} gives no transform_matrix for this frame")
        try:
            c2w_cv = opencv_from_opengl(rigid_pose(entry["transform_matrix"]))
        except ValueError as error:
            raise DataError(f"{self.index}: {error}") from None
        time_s = None
        if entry.get("time") is not None:
            time_s = finite_number(entry["time"], "time", self.index)
        return FrameRecord(
            name=entry["file_path"],
            image=image,
            lens=self._frame_lens(entry, image),
            c2w_cv=c2w_cv,
            time_s=time_s,
            depth=self._depth(entry),
            depth_unit=0.001 * self.applied_scale,
            mask=self._mask(entry),
        )

    def _frame_lens(self, entry: Mapping[str, Any], image: Path) -> Lens:
        own = {key: entry[key] for key in _INTRINSICS if key in entry}
        if not own and self.shared is not None:
            return self.shared
        merged = {key: self.content[key] for key in _INTRINSICS if key in self.content} | own
        if "w" not in merged or "h" not in merged:
            merged["w"], merged["h"] = image_size(image, self.options.max_pixels)
        return stated_lens(merged, self.index)

    def _image(self, name: Any) -> Path:
        """The image of a frame: as named, with a suffix added (Blender), or in a reduced folder."""
        external = self.options.allow_external_paths
        named = path_inside(self.root, name, allow_external=external)
        for candidate in _spellings(named):
            if file_exists(candidate):
                return path_inside(self.root, str(candidate), allow_external=external)
        for folder in _REDUCED:
            if named.parent.name == "images":
                for candidate in _spellings(named.parent.parent / folder / named.name):
                    if file_exists(candidate):
                        return path_inside(self.root, str(candidate), allow_external=external)
        raise FileMissing(f"no image file {named}")

    def _depth(self, entry: Mapping[str, Any]) -> Path | None:
        """None, and counted, when the file isn't there: the picture is still of use."""
        path = self._part(entry, "depth_file_path")
        if path is not None and not file_exists(path):
            self.num_without_depth += 1
            return None
        return path

    def _mask(self, entry: Mapping[str, Any]) -> Path | None:
        """A frame whose mask isn't there can't be used: what must be ignored would count."""
        path = self._part(entry, "mask_path")
        if path is not None and not file_exists(path):
            raise FileMissing(f"no mask file {path}")
        return path

    def _part(self, entry: Mapping[str, Any], key: str) -> Path | None:
        if entry.get(key) is None:
            return None
        return path_inside(self.root, entry[key], allow_external=self.options.allow_external_paths)

    def scale(self, records: list[FrameRecord]) -> tuple[Scale, tuple[str, ...]]:
        """What the world's unit is, and what was decided on the way."""
        notes = ["poses: OpenGL camera-to-world, converted to OpenCV axes; world left as it is"]
        has_depth = any(record.depth is not None for record in records)
        stated = self.content.get("world_scale")
        if stated in SCALES:
            scale: Scale = stated
        elif has_depth and self.applied_scale == 1.0:
            scale = "metric"
            notes.append("depth is in millimetres, so the world is taken for metric")
        elif "fl_x" not in self.content and "camera_angle_x" in self.content:
            scale = "normalised"
        else:
            scale = "up_to_scale"
        if records and not records[0].lens.is_pinhole:  # type: ignore[union-attr]
            notes.append(f"lens distortion ({records[0].lens.model}) removed at reading")  # type: ignore[union-attr]
        reduced = {r.image.parent.name for r in records} & set(_REDUCED)
        if reduced:
            notes.append(f"images from {', '.join(sorted(reduced))}; intrinsics scaled with them")
        if self.num_without_depth:
            notes.append(f"{self.num_without_depth} frames list a depth file that is not there")
        if "applied_transform" in self.content:
            notes.append("applied_transform is part of the poses and is left there")
        if any(record.time_s is not None for record in records):
            notes.append("time is taken as seconds")
        return scale, tuple(notes)


def _spellings(path: Path) -> tuple[Path, ...]:
    if path.suffix:
        return (path,)
    return (path, *(path.with_name(path.name + suffix) for suffix in (".png", ".jpg", ".jpeg")))


def _flavour(content: Mapping[str, Any], index: Path, records: list[FrameRecord]) -> str:
    if any(record.image.parent.name in _REDUCED for record in records):
        return f"{FORMAT} (DL3DV layout)"
    if "fl_x" not in content and "camera_angle_x" in content:
        return f"{FORMAT} (Blender, {index.name})"
    return f"{FORMAT} (nerfstudio, instant-ngp)"


def stated_lens(values: Mapping[str, Any], where: Path) -> Lens:
    """Intrinsics under nerfstudio's keys to a Lens. Raises DataError that names key and file."""

    def number(key: str) -> float | None:
        return finite_number(values[key], key, where) if values.get(key) is not None else None

    def focal(key: str, angle_key: str, size: float) -> float | None:
        given, angle = number(key), number(angle_key)
        if given is not None or angle is None:
            return given
        if not 0 < angle < math.pi:
            raise DataError(f"{where}: {angle_key} is {angle} rad, not between 0 and pi")
        return 0.5 * size / math.tan(0.5 * angle)

    width, height = number("w") or 0.0, number("h") or 0.0
    fx = focal("fl_x", "camera_angle_x", width)
    fy = focal("fl_y", "camera_angle_y", height)
    if fx is None:
        raise DataError(f"{where} gives no fl_x and no camera_angle_x; add one of them")
    cx, cy = number("cx"), number("cy")
    named = str(values.get("camera_model") or "").upper()
    if named and named not in _MODELS:
        raise DataError(f"{where}: camera_model {named[:40]!r} is none of {', '.join(_MODELS)}")
    model = "fisheye" if values.get("is_fisheye") else _MODELS.get(named, "opencv")
    k1, k2, k3, k4, p1, p2 = (number(key) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model == "opencv" and k4:
        raise DataError(f"{where}: k4 = {k4} has no agreed meaning for a perspective lens")
    return lens_of(
        where,
        width=round(width),
        height=round(height),
        fx=fx,
        fy=fx if fy is None else fy,
        cx=0.5 * width if cx is None else cx,
        cy=0.5 * height if cy is None else cy,
        model=model,
        distortion={
            "pinhole": (),
            "opencv": (k1, k2, p1, p2, k3),
            "fisheye": (k1, k2, k3, k4),
        }[model],
    )
