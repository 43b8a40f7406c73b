"""One frame as one binary message, for sockets: a JSON header and the pictures as they are.

    bytes 0-3    EVF1
    bytes 4-7    length H of the header, unsigned, little endian; at most 64 KiB
    then         H bytes of UTF-8 JSON
    then         the image, and the depth if there is one, end to end, nothing after them

    {"sequence": 12,                         from 0; the same number again is the same frame
     "image": {"bytes": 40321},              JPEG, PNG or WebP
     "depth": {"bytes": 9000, "unit": 0.001},  optional: 16-bit PNG, 0 unknown; world units a step
     "camera": {"width": 640, "height": 480, "fx": 500.0, "fy": 500.0, "cx": 320.0, "cy": 240.0,
                "c2w_cv": [16 numbers, row by row],     camera-to-world, OpenCV axes
                "model": "opencv", "distortion": [..]},  optional: pinhole otherwise
     "time_s": 3.25, "name": "00012.jpg"}  both optional

The camera speaks of the pixels as they are stored; without a camera, EXIF orientation is applied.
Sizes are compared with each other and with the limits before anything is decoded.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from everview.datasets.captures import Frame
from everview.datasets.errors import DataError, printable
from everview.datasets.guards import EncodedImage, finite_number, image_file, parse_json
from everview.datasets.images import read_colour, read_depth, resize_nearest
from everview.datasets.lenses import COEFFICIENTS, Lens, lens_of, rectify
from everview.datasets.poses import rigid_pose

MAGIC = b"EVF1"
MAX_HEADER_BYTES = 2**16
MAX_SEQUENCE = 2**40
DEPTH_UNIT = 0.001

_FORMATS = ("JPEG", "PNG", "WEBP")
_KEYS = frozenset({"sequence", "image", "depth", "camera", "time_s", "name"})


@dataclass(frozen=True, eq=False)
class FrameMessage:
    """A message taken apart and held against its own sizes; nothing is decoded yet."""

    sequence: int
    header: Mapping[str, Any]
    image: bytes
    depth: bytes | None

    def frame(self, max_pixels: int) -> Frame:
        """Decode it; its index is its sequence. Raises DataError, one sentence."""
        where = f"frame {self.sequence}"
        stored = EncodedImage(f"the image of {where}", self.image)
        with image_file(stored, max_pixels, _FORMATS):
            pass  # the kind and the size, from the header alone
        given = self.header.get("camera")
        image = read_colour(stored, orient=given is None, max_pixels=max_pixels)
        height, width = image.shape[:2]
        depth = None
        if self.depth is not None:
            part = EncodedImage(f"the depth of {where}", self.depth)
            with image_file(part, max_pixels, ("PNG",)):
                pass
            unit = finite_number(self.header["depth"].get("unit", DEPTH_UNIT), "unit", where)
            depth = resize_nearest(read_depth(part, unit, max_pixels=max_pixels), width, height)
        camera = None
        if given is not None:
            try:
                lens = _lens(given, where).fitted(width, height)
                camera = lens.camera(rigid_pose(_matrix(given.get("c2w_cv"))))
            except ValueError as error:
                raise DataError(f"the camera of {where}: {error}") from None
            image = rectify(lens, image)
            depth = None if depth is None else rectify(lens, depth)
        time_s = self.header.get("time_s")
        name = self.header.get("name") or f"{self.sequence:06d}"
        return Frame(
            index=self.sequence,
            name=printable(name)[:200]
            if isinstance(name, str) and name
            else f"{self.sequence:06d}",
            image=image,
            camera=camera,
            time_s=None if time_s is None else finite_number(time_s, "time_s", where),
            depth=depth,
        )


def open_message(data: bytes) -> FrameMessage:
    """Take a message apart. Raises DataError for one whose parts don't fit together."""
    if data[:4] != MAGIC or len(data) < 8:
        raise DataError(f"a message of {len(data)} bytes does not begin with {MAGIC.decode()}")
    (length,) = struct.unpack_from("<I", data, 4)
    if length > MAX_HEADER_BYTES or 8 + length > len(data):
        raise DataError(f"a message of {len(data)} bytes states a header of {length} bytes")
    try:
        header = parse_json(data[8 : 8 + length].decode(), "the header of a message")
    except UnicodeDecodeError:
        raise DataError("the header of a message is not text") from None
    if not isinstance(header, dict) or set(header) - _KEYS:
        raise DataError(f"the header of a message is not an object of {', '.join(sorted(_KEYS))}")
    sequence = header.get("sequence")
    if type(sequence) is not int or not 0 <= sequence < MAX_SEQUENCE:
        raise DataError(f"a message's sequence is {str(sequence)[:40]!r}, not a number from 0 on")
    sizes = [_num_bytes(header, part) for part in ("image", "depth")]
    if sizes[0] is None or 8 + length + sum(size or 0 for size in sizes) != len(data):
        raise DataError(
            f"message {sequence} has {len(data) - 8 - length} bytes after its header, which "
            f"states {sizes[0]} of image and {sizes[1] or 0} of depth"
        )
    split = 8 + length + sizes[0]
    depth = data[split:] if sizes[1] else None
    return FrameMessage(sequence, header, data[8 + length : split], depth)


def frame_message(sequence: int, frame: Frame, quality: int | None = None) -> bytes:
    """A frame as a message. quality: of the JPEG, 1 to 95; None sends a lossless PNG.

    Depth is sent in steps of `DEPTH_UNIT`, so up to 65 units away, and not at all further.
    """
    stored = io.BytesIO()
    picture = Image.fromarray(frame.image)
    if quality is None:
        picture.save(stored, "PNG", compress_level=1)
    else:
        picture.save(stored, "JPEG", quality=quality)
    image, depth = stored.getvalue(), b""
    header: dict[str, Any] = {"sequence": sequence, "image": {"bytes": len(image)}}
    header |= {"time_s": frame.time_s, "name": frame.name[:200]}
    if frame.depth is not None:
        steps = np.nan_to_num(frame.depth / DEPTH_UNIT, nan=0.0, posinf=0.0, neginf=0.0).round()
        steps[(steps < 0) | (steps > 65535)] = 0
        layer = io.BytesIO()
        Image.fromarray(steps.astype(np.uint16)).save(layer, "PNG", compress_level=1)
        depth = layer.getvalue()
        header["depth"] = {"bytes": len(depth), "unit": DEPTH_UNIT}
    if frame.camera is not None:
        camera = frame.camera
        header["camera"] = {
            "width": camera.width, "height": camera.height, "fx": camera.fx, "fy": camera.fy,
            "cx": camera.cx, "cy": camera.cy, "c2w_cv": camera.c2w_cv.ravel().tolist(),
        }  # fmt: skip
    text = json.dumps(header, allow_nan=False).encode()
    return MAGIC + struct.pack("<I", len(text)) + text + image + depth


def _num_bytes(header: Mapping[str, Any], part: str) -> int | None:
    stated = header.get(part)
    if stated is None:
        return None
    size = stated.get("bytes") if isinstance(stated, dict) else None
    if type(size) is not int or size < 1:
        raise DataError(f"message {header['sequence']} states no size for its {part}")
    return size


def _lens(given: Any, where: str) -> Lens:
    if not isinstance(given, dict):
        raise DataError(f"the camera of {where} is not an object")
    numbers = {
        key: finite_number(given.get(key), key, f"the camera of {where}")
        for key in ("width", "height", "fx", "fy", "cx", "cy")
    }
    model, distortion = given.get("model", "pinhole"), given.get("distortion", [])
    if not isinstance(model, str) or model not in COEFFICIENTS or not isinstance(distortion, list):
        raise DataError(f"the lens of {where} is none of {', '.join(COEFFICIENTS)}")
    return lens_of(
        f"the camera of {where}",
        width=round(numbers.pop("width")),
        height=round(numbers.pop("height")),
        **numbers,
        model=model,
        distortion=tuple(finite_number(k, "distortion", where) for k in distortion),
    )


def _matrix(values: Any) -> np.ndarray:
    if not isinstance(values, list) or len(values) != 16:
        raise ValueError("c2w_cv is not a list of 16 numbers")
    return np.array([finite_number(value, "c2w_cv", "a camera") for value in values]).reshape(4, 4)
