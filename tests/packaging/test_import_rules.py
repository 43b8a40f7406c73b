"""The rooms import in one direction; heavy and optional libraries stay where they belong."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "models", "datasets", "pipeline", "workflows")
# What each room may import of the others; a dotted name allows that module alone.
MAY_IMPORT = {
    "kernels": (),
    "models": ("kernels", "datasets.cameras"),
    "datasets": (),
    "pipeline": ("kernels", "models", "datasets"),
    "workflows": ("kernels", "models", "datasets", "pipeline"),
}
# Third parties that only some places know.
ONLY_IN = {
    "ray": ("pipeline/", "workflows/"),
    "deepspeed": ("pipeline/training/deepspeed_engine.py",),
    "triton": ("kernels/",),
}
# Optional or slow to import: inside the function that needs them, never at import.
ONLY_LAZILY = {"open3d", "pycolmap", "viser", "trimesh", "embreex", "rerun", "gsplat"}

FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Every module named by an import, and whether it is imported when the file is."""
    lazy = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    typing_only = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.dump(outer.test)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        at_import = id(node) not in lazy and id(node) not in typing_only
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base, at_import
            yield from ((f"{base}.{alias.name}", at_import) for alias in node.names)


@cache
def names_in(path: Path) -> list[tuple[str, bool]]:
    return list(imported(ast.parse(path.read_text(encoding="utf-8"))))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    wrong = []
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != room:
            continue
        for name, _ in names_in(path):
            other = name.removeprefix("everview.")
            if other == name or other.partition(".")[0] == room:
                continue
            if not any(f"{other}.".startswith(f"{allowed}.") for allowed in MAY_IMPORT[room]):
                # `from everview.datasets import cameras` names the room itself first.
                if any(allowed.startswith(f"{other}.") for allowed in MAY_IMPORT[room]):
                    continue
                wrong.append(f"{place(path)}: {name}")
    assert not wrong


def test_imports_are_absolute_and_go_through_the_package() -> None:
    """`import models` would find somebody else's package, or ours twice."""
    wrong = [
        f"{place(path)}: {name}"
        for path in FILES
        for name, _ in names_in(path)
        if name.startswith(".") or name.partition(".")[0] in ROOMS
    ]
    assert not wrong


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_place(library: str) -> None:
    wrong = [
        f"{place(path)}: {name}"
        for path in FILES
        for name, _ in names_in(path)
        if name.partition(".")[0] == library
        and not any(place(path).startswith(allowed) for allowed in ONLY_IN[library])
    ]
    assert not wrong


def test_optional_libraries_are_imported_where_they_are_used() -> None:
    wrong = [
        f"{place(path)}: {name}"
        for path in FILES
        for name, at_import in names_in(path)
        if at_import and name.partition(".")[0] in ONLY_LAZILY
    ]
    assert not wrong


def test_the_five_rooms_are_namespaces_and_their_folders_packages() -> None:
    """An `__init__.py` in a room would shadow other people's `datasets` and `kernels`; a missing
    one below it hides data files from importlib.resources in an editable install."""
    assert [room for room in ROOMS if (ROOT / room / "__init__.py").exists()] == []
    folders = {parent for path in FILES for parent in path.parents}
    bare = [
        place(folder)
        for folder in folders
        if folder.is_relative_to(ROOT)
        and len(folder.relative_to(ROOT).parts) > 1
        and not (folder / "__init__.py").exists()
    ]
    assert bare == []


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    names = {place(path): path.stem for path in FILES if path.stem != "__init__"}
    assert [where for where, name in names.items() if name in sys.stdlib_module_names] == []


def test_files_are_of_a_size_that_is_read_in_one_sitting() -> None:
    long = {place(path): len(path.read_text().splitlines()) for path in FILES}
    assert {where: lines for where, lines in long.items() if lines > 400} == {}
