"""Limits and checks between a stranger's bytes and the readers.

Nothing here trusts a number before it has been compared with the size of the file that states it.
Every function raises DataError, one sentence that names the file.
"""

from __future__ import annotations

import json
import math
import stat
import threading
import warnings
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from everview.datasets.errors import DataError

MAX_PIXELS = 64_000_000
MAX_TEXT_BYTES = 256 * 2**20
MAX_LINE = 16 * 2**20
MAX_JSON_BYTES = 64 * 2**20
MAX_JSON_VALUES = 2_000_000
MAX_ARRAY_BYTES = 1 * 2**30
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """The bytes of an image file that came without a file. name: what messages call it."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


# warnings.catch_warnings changes process-wide state, so only one thread may be inside it.
_WARNINGS_LOCK = threading.Lock()


def regular_file(path: Path, max_bytes: int | None = None) -> int:
    """Size in bytes of a regular, non-empty file (a FIFO would block, a device never ends)."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read: {_reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a regular file; give a file or a capture's folder")
    if status.st_size == 0:
        raise DataError(f"{path} is empty; copy it again from its source")
    if max_bytes is not None and status.st_size > max_bytes:
        raise DataError(f"{path} has {status.st_size} bytes, more than the limit of {max_bytes}")
    return status.st_size


def path_inside(root: Path, name: object, *, allow_external: bool = False) -> Path:
    """`name` resolved against `root`; refused when it, or a link on its way, leaves `root`.

    The file need not exist.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{root} lists {name!r}, which is not a file name")
    try:
        resolved = (root / name).resolve()
        inside = resolved.is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name[:200]!r} can't be resolved: {_reason(error)}") from None
    if not inside and not allow_external:
        raise DataError(
            f"path {name[:200]!r} leads outside {root}; move the file inside it or allow "
            "external paths"
        )
    return resolved


def file_exists(path: Path) -> bool:
    """Path.is_file that also answers for names no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """A UTF-8 text file within `max_bytes`."""
    regular_file(path, max_bytes)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text; it may be another format or damaged") from None
    except OSError as error:
        raise DataError(f"{path} can't be read: {_reason(error)}") from None


def text_lines(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> Iterator[tuple[int, str]]:
    """Lines of a text file, numbered from 1, read one at a time; none longer than the limit.

    Undecodable bytes come as surrogates, as they do in the names of files.
    """
    regular_file(path, max_bytes)
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) == MAX_LINE:
                    raise DataError(f"{path}, line {number} is longer than {MAX_LINE} characters")
                yield number, line
    except OSError as error:
        raise DataError(f"{path} can't be read: {_reason(error)}") from None


def read_json(path: Path) -> Any:
    """A JSON file bounded in bytes, values and nesting.

    NaN and Infinity are let through as floats, because Python writes them: a frame that holds
    one is refused by its own check, not the whole file.
    """
    return parse_json(read_text(path, MAX_JSON_BYTES), str(path))


def parse_json(text: str, where: str) -> Any:
    """As `read_json`, of text that was read from `where`."""
    values = text.count(",") + text.count("[") + text.count("{")
    if values > MAX_JSON_VALUES:
        raise DataError(f"{where} holds {values} values, more than the limit of {MAX_JSON_VALUES}")
    try:
        return json.loads(text)
    except RecursionError:
        raise DataError(f"{where} is nested too deeply to be an index of frames") from None
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON: {_reason(error)}") from None


def read_table(
    path: Path, columns: int | tuple[int, ...] | None = None, skip_lines: int = 0
) -> np.ndarray:
    """A text file of numbers, one row a line, `#` comments skipped: float64 [N, columns].

    columns: the widths allowed; None: any, but all rows alike. skip_lines: a heading. NaN passes.
    """
    numbers = array("d")
    width = 0
    allowed = (columns,) if isinstance(columns, int) else columns
    for number, line in text_lines(path):
        cells = line.split("#", 1)[0].replace(",", " ").split()
        if number <= skip_lines or not cells:
            continue
        try:
            row = [float(cell) for cell in cells]
        except ValueError:
            raise DataError(f"{path}, line {number}: {line.strip()[:50]!r} is no number") from None
        if allowed is not None and len(row) not in allowed:
            expected = " or ".join(map(str, allowed))
            raise DataError(f"{path}, line {number} has {len(row)} numbers, expected {expected}")
        if width and len(row) != width:
            raise DataError(f"{path}, line {number} has {len(row)} numbers, not {width}")
        width = len(row)
        numbers.extend(row)
    if not width:
        raise DataError(f"{path} holds no numbers; copy it again from its source")
    return np.array(numbers).reshape(-1, width)


def finite_number(value: Any, name: str, where: Path | str) -> float:
    """`value` as a finite float, or a DataError that names the key."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{where}: {name} is {str(value)[:40]!r}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(f"{where}: {name} is {number}, not a finite number")
    return number


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    """Pillow warns where a file is a bomb or damaged; here it raises. For short calls only."""
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextmanager
def image_file(
    path: Path | EncodedImage,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = IMAGE_FORMATS,
) -> Iterator[Image.Image]:
    """An image whose header was checked and whose pixels are still undecoded.

    Whatever Pillow raises while the caller decodes becomes a DataError that names the file.
    """
    if isinstance(path, Path):
        regular_file(path)
    try:
        with warnings_as_errors():
            # the header alone: getexif and the like would decode before the size was looked at
            opened = path if isinstance(path, Path) else BytesIO(path.data)
            image = Image.open(opened, formats=formats)
        width, height = image.size
    except Image.UnidentifiedImageError:
        raise DataError(f"{path} is not a PNG, JPEG, WebP or TIFF image") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path} states more pixels than the limit of {max_pixels}") from None
    except Exception as error:  # Pillow's plug-ins raise whatever their parsers trip over
        raise DataError(f"{path} has a damaged header: {_reason(error)}") from None
    with image:
        if width * height > max_pixels:
            raise DataError(
                f"{path} states {width}x{height} pixels, more than the limit of {max_pixels}"
            )
        try:
            yield image
        except DataError:
            raise
        except Exception as error:  # as above
            raise DataError(f"{path} can't be decoded: {_reason(error)}") from None


def image_size(path: Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height from the header alone, as stored (EXIF orientation not applied)."""
    with image_file(path, max_pixels) as image:
        return image.size


def load_npy(path: Path, max_bytes: int = MAX_ARRAY_BYTES) -> np.ndarray:
    """A `.npy` array; its header is held against the file's size before anything is allocated."""
    size = regular_file(path, max_bytes)
    try:
        with path.open("rb") as file:
            _check_npy_header(file, size, path)
            file.seek(0)
            return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable .npy array: {_reason(error)}") from None


def load_npz(path: Path, max_bytes: int = MAX_ARRAY_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, refused when they unpack to more than `max_bytes` or 200:1."""
    size = regular_file(path, max_bytes)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > min(max_bytes, 200 * size):
                raise DataError(f"{path} unpacks to {unpacked} bytes, more than is allowed")
            arrays = {}
            for member in members:
                with archive.open(member) as file:
                    _check_npy_header(file, member.file_size, path)
                with archive.open(member) as file:
                    name = member.filename.removesuffix(".npy")
                    arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
            return arrays
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a readable .npz archive: {_reason(error)}") from None


def _check_npy_header(file: Any, size: int, path: Path) -> None:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise DataError(f"{path} is a .npy file of version {version}, which is not read")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{path} holds Python objects; save plain numbers instead")
    if math.prod(shape) * dtype.itemsize > size:
        raise DataError(f"{path} states an array of shape {shape}, larger than its file")


def _reason(error: BaseException) -> str:
    """The first line of an exception, short enough for one sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0][:160]
