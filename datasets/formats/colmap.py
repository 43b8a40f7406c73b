"""COLMAP reconstructions: a folder with `images/` and `sparse/0/`, or the model's own folder.

Of several models the one with the most images is read, and that is said. Sparse points go into
`info.points_world`, for the gauge.
"""

from __future__ import annotations

from pathlib import Path

from everview.datasets.captures import CaptureInfo, Skip
from everview.datasets.errors import DataError
from everview.datasets.formats.colmap_model import (
    ModelImage,
    is_model,
    kind_of,
    read_cameras,
    read_images,
    read_points,
)
from everview.datasets.formats.folders import natural_key
from everview.datasets.guards import file_exists, path_inside
from everview.datasets.lenses import Lens
from everview.datasets.listed import FrameRecord, ListedCapture, ReadOptions

FORMAT = "COLMAP model"
_MODEL_PARENTS = ("", "sparse", "colmap/sparse", "colmap")
_IMAGE_FOLDERS = ("images", "images_2", "images_4", "images_8", "input", "")


def find(path: Path) -> Path | None:
    """The folder, if a model lies in it, in `sparse/` or in a numbered folder there."""
    return path if path.is_dir() and _model_folders(path) else None


def read(source: str, index: Path, options: ReadOptions) -> ListedCapture:
    """The registered images in natural order of their names; missing or broken ones skipped."""
    folder, images, notes = _largest_model(index)
    lenses = read_cameras(folder)
    root, image_folder = _image_folder(index, folder, images)
    records, skipped = [], []
    for image in sorted(images, key=lambda image: natural_key(image.name)):
        try:
            records.append(_record(root, image_folder, image, lenses, options))
        except DataError as error:
            skipped.append(Skip(image.name, str(error)))
    if not records and lenses:
        broken = [lens for lens in lenses.values() if isinstance(lens, DataError)]
        if len(broken) == len(lenses):
            raise broken[0]
    if any(record.lens is not None and not record.lens.is_pinhole for record in records):
        notes = (*notes, "lens distortion removed at reading")
    points = read_points(folder)
    info = CaptureInfo(
        source,
        f"{FORMAT} ({'binary' if kind_of(folder) == 'bin' else 'text'})",
        "up_to_scale",
        None,
        True,
        points_world=points,
        notes=("poses: OpenCV world-to-camera, inverted", *notes),
    )
    return ListedCapture(info, records, skipped, options)


def _model_folders(path: Path) -> list[Path]:
    found = []
    for name in _MODEL_PARENTS:
        parent = path / name
        if not parent.is_dir():
            continue
        if is_model(parent):
            found.append(parent)
        if name:
            numbered = sorted(parent.iterdir(), key=lambda entry: natural_key(entry.name))
            found += [entry for entry in numbered if entry.is_dir() and is_model(entry)]
    return found


def _largest_model(index: Path) -> tuple[Path, list[ModelImage], tuple[str, ...]]:
    """The model with the most images; the first of equals. One that is damaged counts as empty."""
    folders = _model_folders(index)
    models: list[tuple[Path, list[ModelImage]]] = []
    errors = []
    for folder in folders:
        try:
            models.append((folder, read_images(folder)))
        except DataError as error:
            errors.append(error)
    if not models:
        raise errors[0]
    folder, images = max(models, key=lambda model: len(model[1]))
    if not images:
        raise DataError(f"{folder} registers no images; run the mapper again")
    notes = tuple(str(error) for error in errors)
    if len(folders) > 1:
        sizes = ", ".join(f"{f.relative_to(index)}: {len(i)}" for f, i in models)
        notes = (f"{folder.relative_to(index)} chosen, the largest model (images {sizes})", *notes)
    return folder, images, notes


def _image_folder(index: Path, folder: Path, images: list[ModelImage]) -> tuple[Path, str]:
    """Root and sub-folder that hold the images; tried where users and tools put them."""
    roots = [index, *folder.parents[:3]] if index == folder else [index]
    names = [image.name for image in images[:8]]
    for root in roots:
        for name in _IMAGE_FOLDERS:
            if any(file_exists(root / name / image) for image in names):
                return root, name
    for root in roots:
        for name in _IMAGE_FOLDERS:
            if name and (root / name).is_dir():
                return root, name
    raise DataError(f"{index} has no images folder; put the images into {roots[0] / 'images'}")


def _record(
    root: Path,
    folder: str,
    image: ModelImage,
    lenses: dict[int, Lens | DataError],
    options: ReadOptions,
) -> FrameRecord:
    name = f"{folder}/{image.name}" if folder else image.name
    path = path_inside(root, name, allow_external=options.allow_external_paths)
    if not file_exists(path):
        raise DataError(f"no image file {path}")
    return FrameRecord(image.name, path, image.lens(lenses), image.c2w_cv())
