"""A known cube seen from known cameras, as pictures whose corners can be found to 0.05 px.

Each corner is a Gaussian blob in a colour channel on black, drawn at its exact projection through
an optional lens; depth is the corner's z everywhere near it. Whoever reads the pictures back with
the right camera finds each blob's centroid where the camera projects the corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.lenses import Lens

WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY = 160, 120, 150.0, 154.0, 82.3, 57.9
CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.4, 0.4) for z in (-0.3, 0.3)])
_RADIUS = 5


@dataclass(frozen=True, eq=False)
class View:
    """A picture of the cube and the pinhole camera that took it (without its lens)."""

    camera: Camera
    image: np.ndarray
    depth_mm: np.ndarray


def looking_at_origin(eye: tuple[float, float, float]) -> np.ndarray:
    """c2w_cv of a camera at `eye`, its y axis as far down (-z of the world) as it can be."""
    centre = np.array(eye, np.float64)
    forward = -centre / np.linalg.norm(centre)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, np.cross(forward, right), forward
    pose[:3, 3] = centre
    return pose


def cameras(count: int = 4) -> list[Camera]:
    """Cameras around the cube; no two share a height or a distance."""
    found = []
    for k in range(count):
        angle = 0.4 + 2.1 * k
        eye = (np.cos(angle) * (2.4 + 0.1 * k), np.sin(angle) * (2.4 + 0.1 * k), 0.9 + 0.13 * k)
        pose = looking_at_origin(eye)
        found.append(Camera(WIDTH, HEIGHT, FOCAL_X, FOCAL_Y, CX, CY, pose))
    return found


def view(camera: Camera, lens: Lens | None = None) -> View:
    """The cube through `camera`; `lens` bends the picture (its fx, fy, cx, cy are used then)."""
    pixels, depth = _project(camera, lens)
    rows, columns = np.mgrid[: camera.height, : camera.width] + 0.5
    image = np.zeros((camera.height, camera.width, 3))
    nearest = np.full((camera.height, camera.width), np.inf)
    depth_mm = np.zeros((camera.height, camera.width), np.uint16)
    for k, ((u, v), z) in enumerate(zip(pixels, depth, strict=True)):
        squared = (columns - u) ** 2 + (rows - v) ** 2
        image[..., k % 3] += 255.0 * np.exp(-squared / (2 * 1.3**2))
        depth_mm[squared < nearest] = round(z * 1000)
        nearest = np.minimum(nearest, squared)
    return View(camera, np.clip(image.round(), 0, 255).astype(np.uint8), depth_mm)


def _project(camera: Camera, lens: Lens | None) -> tuple[np.ndarray, np.ndarray]:
    pixels, depth = camera.project(CORNERS)
    if lens is not None:
        x = (pixels[:, 0] - camera.cx) / camera.fx
        y = (pixels[:, 1] - camera.cy) / camera.fy
        pixels = np.stack(lens.project(x, y), -1)
    return pixels, depth


def corner_errors_px(image: np.ndarray, camera: Camera) -> np.ndarray:
    """Distance in pixels of each lone blob's centroid from where `camera` projects its corner.

    Corners with a neighbour of their own channel close by, or near the border, are left out; a
    blob that isn't there at all counts as 99 px.
    """
    pixels, depth = camera.project(CORNERS)
    assert (depth > 0).all(), "the cube lies behind the camera"
    errors = []
    for k, (u, v) in enumerate(pixels):
        others = [j for j in range(len(pixels)) if j != k and j % 3 == k % 3]
        if others and np.hypot(*(pixels[others] - (u, v)).T).min() < 3 * _RADIUS:
            continue
        row, column = int(v), int(u)
        if not (_RADIUS < row < camera.height - _RADIUS - 1):
            continue
        if not (_RADIUS < column < camera.width - _RADIUS - 1):
            continue
        rows = np.arange(row - _RADIUS, row + _RADIUS + 1)
        columns = np.arange(column - _RADIUS, column + _RADIUS + 1)
        weight = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1, k % 3].astype(float)
        weight[weight < 8] = 0  # JPEG noise far from the blob
        if weight.sum() < 500:
            errors.append(99.0)
            continue
        found_u = (weight.sum(0) * (columns + 0.5)).sum() / weight.sum()
        found_v = (weight.sum(1) * (rows + 0.5)).sum() / weight.sum()
        errors.append(float(np.hypot(found_u - u, found_v - v)))
    assert len(errors) >= 2, "too few lone corners in sight to judge a camera by"
    return np.array(errors)
