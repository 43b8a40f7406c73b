"""H.264 video that plays in a browser: yuv420p, even dimensions, index at the front of the file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

WATCHABLE_PX = 480  # short side below which pictures are enlarged by a whole factor


def enlargement(width: int, height: int) -> int:
    """The whole factor that brings the short side of small pictures to about WATCHABLE_PX."""
    return max(1, round(WATCHABLE_PX / min(width, height)))


def write_video(
    file: Path,
    images: Iterable[np.ndarray],
    frames_per_s: float | Fraction = 24,
    crf: int = 16,
) -> int:
    """Write uint8 [H, W, 3] sRGB images of one size as an mp4; returns the number of frames.

    Small pictures are enlarged by a whole factor (Lanczos), so that 128-pixel renderings can be
    watched; an odd last row or column is cut. The images are consumed one at a time, and the file
    appears under its name only when it is complete. Raises ValueError when there are no images.
    """
    partial = file.with_name(f".{file.name}.partial.mp4")
    count = 0
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as out:
            stream = None
            for image in images:
                picture = _even(_enlarged(image))
                if stream is None:
                    rate = Fraction(frames_per_s).limit_denominator(60_000)
                    # one x264 thread: each more buffers frames, and a stream's memory is bounded
                    options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
                    stream = out.add_stream("libx264", rate=rate, options=options)
                    stream.height, stream.width = picture.shape[:2]
                    stream.pix_fmt = "yuv420p"
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                out.mux(stream.encode(frame))
                count += 1
            if stream is None:
                raise ValueError(f"no images for {file.name}")
            out.mux(stream.encode(None))
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _enlarged(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    factor = enlargement(width, height)
    if factor == 1:
        return image
    size = (width * factor, height * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _even(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[: height - height % 2, : width - width % 2])
