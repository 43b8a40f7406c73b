"""Videos made on the spot: any container, any time stamps, a rotation if asked for."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MILLISECOND = Fraction(1, 1000)


def grey_pictures(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Pictures told apart by their grey, with a white upper left corner."""
    pictures = []
    for k in range(count):
        picture = np.full((height, width, 3), 20 + 180 * k // max(1, count - 1), np.uint8)
        picture[: height // 4, : width // 4] = 255
        pictures.append(picture)
    return pictures


def write_video(
    path: Path,
    count: int = 20,
    pictures: Sequence[np.ndarray] | None = None,
    stamps_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    key_every: int = 8,
) -> Path:
    """Encode pictures; 33 ms apart unless `stamps_ms` are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = pictures or grey_pictures(count)
    stamps = stamps_ms or [round(k * 100 / 3) for k in range(len(pictures))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = MILLISECOND
        stream.codec_context.gop_size = key_every
        if codec == "libx264":
            stream.options = {"crf": "10", "preset": "veryfast"}
        for picture, stamp in zip(pictures, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = stamp, MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_clockwise(path: Path) -> Path:
    """Patch an MP4's track header so that players turn the picture by 90 degrees clockwise."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    assert data[at] == 0, "a version 0 header"
    matrix = at + 4 + 4 * 5 + 8 + 8
    one, w = 1 << 16, 1 << 30
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, w)
    path.write_bytes(bytes(data))
    return path
