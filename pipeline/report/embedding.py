"""Pictures and videos as data URIs, within a budget: the page must open anywhere and stay small."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

PAGE_LIMIT_MIB = 14.0
VIDEO_LIMIT_MIB = 8.0
_FILE_LIMIT_MIB = 32
_MAX_PIXELS = 64_000_000
LONGEST_SIDE_PX = 640
# Of a sheet of many pictures.
SHEET_SIDE_PX = 2000
# Small pictures stay exact: a viewer compares pixels. Larger ones are WebP.
_EXACT_SIDE_PX = 160


@dataclass
class Budget:
    """Bytes that may still be embedded, and what was left out for it or couldn't be read."""

    left: float = PAGE_LIMIT_MIB * 2**20
    left_out: int = 0
    unreadable: list[str] = field(default_factory=list)

    def take(self, size: int) -> bool:
        """Whether `size` bytes still fit; counts the refusal otherwise."""
        if size > self.left:
            self.left_out += 1
            return False
        self.left -= size
        return True


@dataclass(frozen=True)
class Embedded:
    """A data URI with the size of what it shows, pixels."""

    uri: str
    width: int
    height: int


def load_picture(
    path: Path, budget: Budget, longest_px: int = LONGEST_SIDE_PX
) -> np.ndarray | None:
    """uint8 [H, W, 3], its sides at most `longest_px`; None when it isn't one we may open."""
    try:
        if path.stat().st_size > _FILE_LIMIT_MIB * 2**20:
            raise ValueError(f"larger than {_FILE_LIMIT_MIB} MiB")
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels")
            picture = image.convert("RGB")
            picture.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
            return np.array(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        budget.unreadable.append(f"{path.name}: {error}")
        return None


def embed_picture(picture: np.ndarray, budget: Budget) -> Embedded | None:
    """A uint8 [H, W, 3] picture as a data URI; None when the page is full."""
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    buffer = io.BytesIO()
    if max(width, height) <= _EXACT_SIDE_PX:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(buffer, "WEBP", quality=88, method=4)
        kind = "webp"
    if not budget.take(len(buffer.getvalue()) * 4 // 3):
        return None
    return Embedded(_uri(f"image/{kind}", buffer.getvalue()), width, height)


def embed_video(path: Path, budget: Budget) -> str | None:
    """An mp4 as a data URI; None when it is too large."""
    size = path.stat().st_size
    if size > VIDEO_LIMIT_MIB * 2**20 or not budget.take(size * 4 // 3):
        return None
    data = path.read_bytes()
    # an ISO media file says so in its first box
    if data[4:8] != b"ftyp":
        budget.unreadable.append(f"{path.name}: not an mp4")
        return None
    return _uri("video/mp4", data)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
