"""A folder of images without cameras: natural order, EXIF orientation applied."""

from __future__ import annotations

from pathlib import Path

from everview.datasets.captures import CaptureInfo, Skip
from everview.datasets.errors import DataError
from everview.datasets.formats.folders import image_names
from everview.datasets.guards import file_exists, path_inside
from everview.datasets.listed import FrameRecord, ListedCapture, ReadOptions

FORMAT = "folder of images"
_SUBFOLDERS = ("", "images", "rgb", "color", "frames")


def find(path: Path) -> Path | None:
    """The folder that holds images: `path`, or the first usual sub-folder that does."""
    if not path.is_dir():
        return None
    for name in _SUBFOLDERS:
        folder = path / name
        if folder.is_dir() and image_names(folder):
            return folder
    return None


def read(source: str, index: Path, options: ReadOptions) -> ListedCapture:
    """Every image of the folder as a frame without a camera."""
    records, skipped = [], []
    names = image_names(index)
    depth = {f"{Path(name).stem}_depth" for name in names}  # maps beside their images
    for name in (name for name in names if Path(name).stem not in depth):
        try:
            image = path_inside(index, name, allow_external=options.allow_external_paths)
            if not file_exists(image):
                raise DataError(f"{image} is not a regular file")
            records.append(FrameRecord(name, image, orient=True))
        except DataError as error:
            skipped.append(Skip(name, str(error)))
    notes = ("natural order of names; EXIF orientation applied; no cameras",)
    info = CaptureInfo(source, FORMAT, "up_to_scale", None, False, notes=notes)
    return ListedCapture(info, records, skipped, options)
