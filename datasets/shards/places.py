"""Where a set lies: a local folder, or any folder that fsspec reaches (s3://, gs://, memory://)."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import Any

from everview.datasets.errors import DataError

# Others (http, zip, chains of them) would let a path read what its writer never meant to give.
_SCHEMES = {
    "file": "",
    "memory": "",
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
}


class Place(ABC):
    """A flat folder of small files that appear whole or not at all."""

    url: str
    is_shared: bool = True
    """other processes find the same files there"""

    @abstractmethod
    def read(self, name: str, max_bytes: int) -> bytes | None:
        """The content of a file; None if there is none. DataError if it is larger or unreadable."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Put a file there, replacing one of that name; a reader never sees a part of it."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the files, sorted; of a folder that isn't there, none."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def describe(self, name: str) -> str:
        """The file, as messages name it."""
        return f"{self.url.rstrip('/')}/{checked(name)}"


def open_place(where: str | Path) -> Place:
    """The folder `where`: a path or a URL. Raises DataError when its driver isn't installed."""
    text = str(where)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return LocalPlace(Path(where))
    if scheme not in _SCHEMES or "::" in rest:
        raise DataError(f"{text}: shards are read from a path or {', '.join(_SCHEMES)}://")
    if scheme == "file":
        return LocalPlace(Path(rest))
    return RemotePlace(text, scheme, rest)


def checked(name: str) -> str:
    """`name`, which must be a plain file name. Raises DataError."""
    if PurePosixPath(name).name != name or name in ("", ".", "..") or "\0" in name:
        raise DataError(f"{name!r} is not the name of a file beside the manifest")
    return name


class LocalPlace(Place):
    """A folder of this machine's file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def read(self, name: str, max_bytes: int) -> bytes | None:
        path = self.folder / checked(name)
        try:
            with path.open("rb") as file:
                content = file.read(max_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"{path} can't be read: {error.strerror}") from None
        return _limited(content, max_bytes, str(path))

    def write(self, name: str, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{checked(name)}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes it private
            os.replace(temporary, self.folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(entry.name for entry in self.folder.iterdir() if entry.is_file())

    def remove(self, name: str) -> None:
        (self.folder / checked(name)).unlink(missing_ok=True)


class RemotePlace(Place):
    """A folder behind an fsspec driver; an object store makes an object visible when it is whole.

    Whatever a driver raises becomes a DataError that names the file.
    """

    def __init__(self, url: str, scheme: str, path: str) -> None:
        import fsspec

        self.url = url
        self.is_shared = scheme != "memory"
        try:
            self._system: Any = fsspec.filesystem(scheme)
        except ImportError:
            raise DataError(
                f"{url}: the driver for {scheme}:// is not installed; pip install "
                f"{_SCHEMES[scheme]}"
            ) from None
        except Exception as error:  # a driver that finds no credentials
            raise DataError(f"{url} can't be opened ({error})") from None
        # memory:// alone has an absolute root
        self._root = ("/" if scheme == "memory" else "") + path.strip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked(name)}"

    def read(self, name: str, max_bytes: int) -> bytes | None:
        try:
            with self._system.open(self._path(name), "rb") as file:
                content: bytes = file.read(max_bytes + 1)
        except FileNotFoundError:
            return None
        except Exception as error:  # drivers raise what their clients do
            raise DataError(f"{self.describe(name)} can't be read ({error})") from None
        return _limited(content, max_bytes, self.describe(name))

    def write(self, name: str, content: bytes) -> None:
        try:
            self._system.pipe_file(self._path(name), content)
        except Exception as error:  # as above
            raise DataError(f"{self.describe(name)} can't be written ({error})") from None

    def names(self) -> list[str]:
        try:
            self._system.invalidate_cache()
            found = self._system.ls(self._root, detail=True)
        except FileNotFoundError:
            return []
        except Exception as error:  # as above
            raise DataError(f"{self.url} can't be listed ({error})") from None
        return sorted(PurePosixPath(f["name"]).name for f in found if f["type"] == "file")

    def remove(self, name: str) -> None:
        try:
            self._system.rm_file(self._path(name))
        except FileNotFoundError:
            pass
        except Exception as error:  # as above
            raise DataError(f"{self.describe(name)} can't be removed ({error})") from None


def _limited(content: bytes, max_bytes: int, name: str) -> bytes:
    if len(content) > max_bytes:
        raise DataError(f"{name} is larger than {max_bytes} bytes, so it is none of a shard set's")
    return content
