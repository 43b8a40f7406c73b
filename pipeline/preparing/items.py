"""From what the user names to a list of items: one capture or one mesh each, uniquely named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from everview.datasets.errors import DataError, printable
from everview.datasets.formats import image_folder, video
from everview.datasets.formats.folders import naturally
from everview.datasets.opening import READERS
from everview.datasets.shards import split_by_name
from everview.pipeline.errors import UsageError

Split = Literal["training", "held_out"]
_COMMON_NAMES = ("images", "rgb", "color", "frames", "input")
_MESH_SUFFIXES = frozenset({".glb", ".obj", ".ply"})


@dataclass(frozen=True)
class Item:
    """kind: what it is read as. source: path, or URL of a capture. name: of its scenes."""

    kind: Literal["capture", "mesh", "ycb"]
    source: str
    name: str


@dataclass(frozen=True)
class Found:
    """items: in order. split: what the set may be used for ("" when nothing was divided by name).
    passed_over: entries of folders that are neither capture nor mesh."""

    items: tuple[Item, ...]
    split: str
    passed_over: tuple[str, ...]


def find_items(sources: Sequence[str], split: Split | None) -> Found:
    """Every item of `sources`, in the split that was asked for.

    A folder is a capture if it states cameras; else a folder of meshes if it holds some; else a
    capture without cameras; else a folder of those. Names are made unique by numbering.
    Raises DataError for a source that is nothing of the kind, UsageError for a held-out object in
    a training set.
    """
    items: list[Item] = []
    passed_over: list[str] = []
    divided = split
    for source in sources:
        found, others = _in_source(source)
        passed_over += others
        if any(item.kind == "ycb" for item in found):
            divided = divided or "training"
        items += _of_split(source, found, split)
    if not items:
        raise DataError(f"nothing of {', '.join(sources)} is in the split {split!r}")
    return Found(_with_unique_names(items), divided or "", tuple(passed_over))


def _in_source(source: str) -> tuple[list[Item], list[str]]:
    if source.startswith("procedural://"):
        return [Item("capture", source, source.removeprefix("procedural://"))], []
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source} does not exist; check the path")
    found = _entry(path)
    if found:
        return found, []
    if not path.is_dir():
        raise DataError(f"{source} is neither a capture nor a mesh that can be read")
    passed_over = []
    for entry in _listed(path):
        inside = _entry(entry)
        found += (
            [replace(item, name=f"{entry.name}-{item.name}") for item in inside]
            if (len(inside) > 1)
            else inside
        )
        if not inside and not entry.name.startswith("."):
            passed_over.append(printable(str(entry)))
    if not found:
        raise DataError(f"{source} holds no capture and no mesh that can be read")
    return found, passed_over


def _entry(path: Path) -> list[Item]:
    """What one file or folder is: a capture, or the meshes in it; nothing if it is neither."""
    if path.is_file() and path.suffix.lower() in _MESH_SUFFIXES:
        return [Item("mesh", str(path), path.stem)]
    if _is_ycb(path):
        return [Item("ycb", str(path), path.stem)]
    without_cameras = (image_folder, video)
    if any(reader.find(path) for reader in READERS if reader not in without_cameras):
        return [_capture(path)]
    if path.is_dir():
        meshes = [item for entry in _listed(path) if entry.is_file() for item in _mesh(entry)]
        if meshes:
            return meshes
    if any(reader.find(path) for reader in without_cameras):
        return [_capture(path)]
    return []


def _mesh(path: Path) -> list[Item]:
    if path.suffix.lower() in _MESH_SUFFIXES or _is_ycb(path):
        return _entry(path)
    return []


def _is_ycb(path: Path) -> bool:
    return path.suffix == ".npz" and path.is_file() and path.with_suffix(".jpg").is_file()


def _capture(path: Path) -> Item:
    whole = path.resolve()
    if whole.is_file() and whole.suffix not in (".json", ".txt"):
        return Item("capture", str(path), whole.stem)
    # neither transforms.json nor images/ is a name for a scene, the folder around them is
    folder = whole if whole.is_dir() else whole.parent
    folder = folder.parent if folder.name in _COMMON_NAMES else folder
    return Item("capture", str(path), folder.name)


def _listed(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in naturally(entry.name for entry in folder.iterdir())]
    except OSError as error:
        raise DataError(f"{folder} can't be listed: {error.strerror}") from None


def _of_split(source: str, found: list[Item], split: Split | None) -> list[Item]:
    """The items of the split; YCB objects are never prepared as if there were none."""
    is_ycb = any(item.kind == "ycb" for item in found)
    if not is_ycb and (split is None or len(found) == 1):
        return found
    names = [item.name for item in found]
    if is_ycb and len(found) == 1:
        # an object named by itself is in the split that its folder puts it in
        names = [path.stem for path in _listed(Path(source).parent) if _is_ycb(path)]
    training, held_out = split_by_name(names)
    wanted = held_out if split == "held_out" else training
    chosen = [item for item in found if item.name in wanted]
    if is_ycb and len(found) == 1 and not chosen:
        other = "training" if split == "held_out" else "held_out"
        raise UsageError(
            f"{source} is in the split {other!r} by its place among the sorted names of its "
            f"folder; prepare it with --split {other}"
        )
    return chosen


def _with_unique_names(items: Iterable[Item]) -> tuple[Item, ...]:
    taken: dict[str, int] = {}
    unique = []
    for item in items:
        name = printable(item.name) or "scene"
        count = taken[name] = taken.get(name, 0) + 1
        unique.append(replace(item, name=name if count == 1 else f"{name}-{count}"))
    names = {item.name for item in unique}
    if len(names) != len(unique):
        raise DataError("two sources have the same name; rename one of them")
    return tuple(unique)
