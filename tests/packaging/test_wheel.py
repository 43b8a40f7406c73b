"""The wheel holds what is tracked: nothing dropped in silence, nothing extra."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from everview.models.weights import DEFAULT_WEIGHTS

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("kernels", "models", "datasets", "pipeline", "workflows")
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"


def tracked(*places: str) -> list[str]:
    command = ["git", "ls-files", "-z", *places]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """File names in a wheel built from a copy of the tracked files."""
    copy = tmp_path_factory.mktemp("source")
    for name in tracked():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    command = [sys.executable, "-c", BUILD]
    built = subprocess.run(command, cwd=copy, capture_output=True, check=True, text=True).stdout
    wheel = copy / "dist" / built.strip().splitlines()[-1]
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_the_wheel_holds_every_tracked_module_and_no_other(members: set[str]) -> None:
    modules = {f"everview/{name}" for name in tracked(*ROOMS) if name.endswith(".py")}
    assert {name for name in members if name.endswith(".py")} == modules


@pytest.mark.slow
def test_data_files_in_the_wheel_are_tracked_ones(members: set[str]) -> None:
    data = {name for name in members if not name.endswith(".py")}
    assert data <= {f"everview/{name}" for name in tracked(*ROOMS)}


@pytest.mark.slow
def test_templates_and_the_default_weights_ship_in_the_wheel(members: set[str]) -> None:
    """The weights with every file of their manifest, the card too, or they wouldn't verify."""
    wanted = [name for name in tracked(*ROOMS) if name.endswith((".html", ".css", ".j2", ".js"))]
    wanted += tracked(f"models/weights/{DEFAULT_WEIGHTS}")
    assert [name for name in wanted if f"everview/{name}" not in members] == []
