"""COLMAP text models: `cameras.txt`, `images.txt`, `points3D.txt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from everview.datasets.poses import quaternion_xyzw
from everview.datasets.writers.atomic import write_atomically
from everview.datasets.writers.posed_image import PosedImage


def write_colmap_text(
    folder: Path,
    images: Sequence[PosedImage],
    points_world: np.ndarray | None = None,
    colours: np.ndarray | None = None,
) -> None:
    """Write PINHOLE cameras, world-to-camera poses and points without tracks into `folder`.

    points_world: [N, 3]. colours: uint8 [N, 3], grey when None. Image names are relative to the
    images folder. `images.txt` comes last: without it a folder is no model.
    Raises ValueError when there is nothing to write or a name holds white space.
    """
    if not images:
        raise ValueError("no images to write")
    for image in images:
        if image.name.split() != [image.name]:
            raise ValueError(f"COLMAP's text form ends a name at white space: {image.name!r}")
    folder = Path(folder)
    camera_ids: dict[str, int] = {}
    image_lines = []
    for number, image in enumerate(images, 1):
        camera = image.camera
        size = f"{camera.width} {camera.height}"
        numbers = _row((camera.fx, camera.fy, camera.cx, camera.cy))
        camera_id = camera_ids.setdefault(f"PINHOLE {size} {numbers}", len(camera_ids) + 1)
        w2c = camera.w2c_cv
        x, y, z, w = quaternion_xyzw(w2c[:3, :3])
        pose = _row((w, x, y, z, *w2c[:3, 3]))
        image_lines.append(f"{number} {pose} {camera_id} {image.name}\n\n")
    cameras = "".join(f"{number} {camera}\n" for camera, number in camera_ids.items())
    write_atomically(
        folder / "cameras.txt", "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n" + cameras
    )
    write_atomically(folder / "points3D.txt", _points(points_world, colours))
    write_atomically(
        folder / "images.txt",
        "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME, then a line of keypoints\n"
        + "".join(image_lines),
    )


def _points(points_world: np.ndarray | None, colours: np.ndarray | None) -> str:
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)\n"]
    if points_world is not None:
        points = np.asarray(points_world, np.float64)
        grey = np.full(points.shape, 128, np.uint8)
        shades = grey if colours is None else np.asarray(colours, np.uint8)
        for number, (point, shade) in enumerate(zip(points, shades, strict=True), 1):
            r, g, b = map(int, shade)
            lines.append(f"{number} {_row(point)} {r} {g} {b} 0\n")
    return "".join(lines)


def _row(numbers: Sequence[float] | np.ndarray) -> str:
    """Numbers with every digit that a float64 has, so that reading gives the same ones."""
    return " ".join(repr(float(number)) for number in numbers)
