"""The code that workers get: the contents of the wheel, never the working tree.

Ray would `pip install` a wheel on every node, with all that it depends on, if there is a pip at
all; so what it gets is the unpacked wheel, two folders (the package and its metadata) that go on
the workers' path in front of whatever is installed there.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from everview.pipeline.errors import EnvironmentUnfit, InputRejected

ROOMS = ("kernels", "models", "datasets", "pipeline", "workflows")
_SOURCE_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE")
_BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
_KEPT = 3  # unpacked wheels in the cache


@dataclass(frozen=True)
class ShippedCode:
    """Unpacked code. package: the folder `everview`. metadata: its `.dist-info`. digest: of every
    Python file in it, hexadecimal."""

    package: Path
    metadata: Path
    digest: str

    @property
    def py_modules(self) -> tuple[str, str]:
        """For Ray's runtime environment."""
        return str(self.package), str(self.metadata)


def code_digest(package: Path) -> str:
    """SHA-256 over names and contents of the Python files of the five rooms under `package`."""
    total = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((package / room).rglob("*.py")):
            name = path.relative_to(package).as_posix().encode()
            content = hashlib.sha256(path.read_bytes()).digest()
            total.update(name + b"\0" + content)
    return total.hexdigest()


def running_code() -> Path:
    """The folder that holds the five rooms this process runs."""
    return Path(__file__).resolve().parents[2]


def shipped_code(wheel: Path | None = None) -> ShippedCode:
    """The code to send to a cluster: of `wheel`, else a wheel of the code that runs here.

    Raises InputRejected for a file that is no wheel of everview, EnvironmentUnfit when the wheel
    can't be built.
    """
    if wheel is not None:
        return _unpacked(wheel)
    return _of_running_code()


@cache
def _of_running_code() -> ShippedCode:
    package = running_code()
    if package.name == "everview":  # installed from a wheel: the rooms and their metadata are there
        metadata = importlib.metadata.distribution("everview").locate_file("")
        folder = next(Path(str(metadata)).glob("everview-*.dist-info"), None)
        if folder is not None:
            return ShippedCode(package, folder, code_digest(package))
    with tempfile.TemporaryDirectory(prefix="everview-wheel-") as place:
        return _unpacked(_build(package, Path(place)))


def _build(source: Path, place: Path) -> Path:
    """A wheel of the tree `source`, built from a copy so that nothing is left in the tree."""
    for name in _SOURCE_FILES:
        if not (source / name).is_file():
            raise EnvironmentUnfit(
                f"{source} has no {name}, so no wheel can be built of it; install everview from a "
                "wheel, or give one with --wheel"
            )
        shutil.copy2(source / name, place / name)
    for room in ROOMS:
        shutil.copytree(source / room, place / room, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", _BUILD], cwd=place, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EnvironmentUnfit(f"the wheel of {source} can't be built: {reason}")
    return place / "dist" / done.stdout.strip().splitlines()[-1]


def _unpacked(wheel: Path) -> ShippedCode:
    """`wheel` in the cache, where it stays for a pasted `ray job submit` line to find it."""
    fresh = Path(tempfile.mkdtemp(dir=_cache_folder(), prefix="unpacking-"))
    try:
        with zipfile.ZipFile(wheel) as archive:
            # Times differ between two wheels of the same tree; names and contents don't.
            members = sorted((m.filename, m.CRC, m.file_size) for m in archive.infolist())
            archive.extractall(fresh)  # keeps every member inside `fresh`
        folder = fresh.parent / hashlib.sha256(repr(members).encode()).hexdigest()[:16]
        fresh.chmod(0o755)
        with contextlib.suppress(OSError):  # it is there already, with the same content
            fresh.rename(folder)
    except zipfile.BadZipFile as error:
        raise InputRejected(f"{wheel} is no wheel: {error}") from error
    except OSError as error:
        raise InputRejected(f"the wheel {wheel} can't be read: {error.strerror}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    os.utime(folder)
    _remove_old(folder.parent)
    package, metadata = folder / "everview", next(folder.glob("everview-*.dist-info"), None)
    if metadata is None or not (package / "workflows").is_dir():
        raise InputRejected(f"{wheel} is no wheel of everview")
    return ShippedCode(package, metadata, code_digest(package))


def _cache_folder() -> Path:
    """Where unpacked wheels lie; in the temporary folder where there is no writable home."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (base / "everview" / "code", Path(tempfile.gettempdir()) / "everview-code"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise EnvironmentUnfit("no folder can be written for the code to ship; set XDG_CACHE_HOME")


def _remove_old(folder: Path) -> None:
    kept = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in kept[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
