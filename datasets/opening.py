"""`open_capture`: any input to a capture, by looking at it rather than by being told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from everview.datasets.captures import Capture
from everview.datasets.errors import DataError
from everview.datasets.formats import (
    colmap,
    image_folder,
    opencv_cameras,
    posed_rgbd,
    realestate10k,
    seven_scenes,
    transforms_json,
    tum,
    video,
)
from everview.datasets.guards import MAX_PIXELS, file_exists
from everview.datasets.images import WHITE, Colour
from everview.datasets.listed import ReadOptions
from everview.datasets.shards.capture import open_scene_capture
from everview.datasets.shards.manifest import MANIFEST_NAME

# In order of precedence: what states cameras comes before what doesn't.
READERS: tuple[ModuleType, ...] = (
    transforms_json,
    opencv_cameras,
    posed_rgbd,
    seven_scenes,
    tum,
    colmap,
    realestate10k,
    image_folder,
    video,
)


def open_capture(
    source: str | Path,
    *,
    background: Colour = WHITE,
    allow_external_paths: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Capture:
    """Open a file, a folder, a scene of a shard set (SET#SCENE) or a `procedural://` URL as a
    capture; nothing is decoded yet.

    background: sRGB colour under transparent pixels. allow_external_paths: follow paths and links
    that leave the capture's folder. max_pixels: images and videos larger than this are refused.
    `capture.info.format` says which reader was chosen, `info.notes` what it decided.
    Raises DataError, one sentence, when nothing usable is there.
    """
    text = str(source)
    if text.startswith("procedural://"):
        from everview.datasets.procedural import open_procedural

        return open_procedural(text)
    if "://" in text:
        raise DataError(f"{text} is a URL; download it first and give the file or folder")
    if "#" in text and is_shard_set(Path(text.rpartition("#")[0])):
        return open_scene_capture(text)
    path = _existing(Path(source))
    options = ReadOptions(background, allow_external_paths, max_pixels)
    others = []
    chosen: tuple[ModuleType, Path] | None = None
    for reader in READERS:
        index = reader.find(path)
        if index is None:
            continue
        if chosen is None:
            chosen = reader, index
        elif reader not in (image_folder, video):
            others.append(reader.FORMAT)
    if chosen is None:
        raise DataError(_unrecognised(path))
    capture = chosen[0].read(text, chosen[1], options)
    if others:
        note = f"also looks like {', '.join(others)}; give that file or folder to read it instead"
        capture.info = replace(capture.info, notes=(*capture.info.notes, note))
    return capture


def is_shard_set(path: Path) -> bool:
    """Whether a folder is what `everview prepare` makes."""
    return file_exists(path / MANIFEST_NAME)


def _existing(path: Path) -> Path:
    try:
        if path.exists():
            return path
    except (OSError, ValueError):
        pass
    raise DataError(f"{str(path)[:200]} does not exist; check the path")


def _unrecognised(path: Path) -> str:
    known = ", ".join(reader.FORMAT for reader in READERS)
    if path.is_file():
        return f"{path} is not a capture that can be read ({known})"
    try:
        inside = sorted(entry.name for entry in path.iterdir())[:5]
    except OSError as error:
        return f"{path} can't be listed: {error.strerror}"
    content = f"it holds {', '.join(inside)}" if inside else "it is empty"
    return f"{path} is not a capture that can be read ({content}; readable are {known})"
