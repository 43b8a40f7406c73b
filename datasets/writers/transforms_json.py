"""`transforms.json` for nerfstudio, instant-ngp and everything that reads them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from everview.datasets.cameras import Camera, opengl_from_opencv
from everview.datasets.captures import Scale
from everview.datasets.writers.atomic import written_atomically
from everview.datasets.writers.posed_image import PosedImage


def write_transforms_json(
    path: Path, images: Iterable[PosedImage], scale: Scale, points: str | None = None
) -> None:
    """Write cameras as OpenGL camera-to-world with pinhole intrinsics in pixels.

    Intrinsics stand once at the top when all frames share them, and in every frame otherwise.
    images: gone through twice, one by one. scale: kept under `world_scale`, which our reader
    understands and others ignore. points: a PLY file beside it, from which splats may start.
    Raises ValueError when there is nothing to write or only some frames have masks.
    """
    shared, is_shared, masked = None, True, set()
    for image in images:
        masked.add(image.mask is not None)
        values = _intrinsics(image.camera)
        shared = shared or values
        is_shared = is_shared and values == shared
    if shared is None:
        raise ValueError("no images to write")
    if len(masked) > 1:
        raise ValueError("nerfstudio takes masks for all frames or for none")
    head: dict[str, Any] = {
        "generator": _generator(),
        "comment": "transform_matrix: camera-to-world, OpenGL axes; pixel centres at +0.5",
        "camera_model": "OPENCV",
        "world_scale": scale,
    }
    if points is not None:
        head["ply_file_path"] = points
    if is_shared:
        head |= shared
    with written_atomically(Path(path)) as file:
        file.write(
            json.dumps(head, indent=1, allow_nan=False).removesuffix("\n}") + ',\n "frames": ['
        )
        for number, image in enumerate(images):
            frame = _frame(image, {} if is_shared else _intrinsics(image.camera))
            text = json.dumps(frame, indent=1, allow_nan=False)
            file.write((",\n" if number else "\n") + textwrap.indent(text, "  "))
        file.write("\n ]\n}\n")


def _intrinsics(camera: Camera) -> dict[str, Any]:
    distortion = dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0)
    return {
        "fl_x": float(camera.fx),
        "fl_y": float(camera.fy),
        "cx": float(camera.cx),
        "cy": float(camera.cy),
        "w": int(camera.width),
        "h": int(camera.height),
    } | distortion


def _frame(image: PosedImage, intrinsics: dict[str, Any]) -> dict[str, Any]:
    frame: dict[str, Any] = {"file_path": image.name}
    frame["transform_matrix"] = opengl_from_opencv(image.camera.c2w_cv).tolist()
    frame |= intrinsics
    if image.time_s is not None:
        frame["time"] = float(image.time_s)
    if image.depth is not None:
        frame["depth_file_path"] = image.depth
    if image.mask is not None:
        frame["mask_path"] = image.mask
    return frame


def _generator() -> str:
    try:
        return f"everview {version('everview')}"
    except PackageNotFoundError:
        return "everview"
