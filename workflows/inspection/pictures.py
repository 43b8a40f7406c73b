"""The two pictures of an inspection: a contact sheet, and the cameras from above and from the side.

A wrong convention shows at once: frusta that look away from the scene, or a walk on a wall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from everview.datasets.cameras import Camera
from everview.pipeline.rendering.survey import up_direction

_INK, _FAINT, _PAPER = (32, 38, 50), (205, 210, 218), (255, 255, 255)
_FIRST, _LAST = np.array([36, 99, 235.0]), np.array([220, 70, 40.0])
_MAX_FRUSTA = 80
_PANEL_PX, _MARGIN_PX, _SUPERSAMPLED = 480, 40, 2


def contact_sheet(thumbnails: Sequence[tuple[str, np.ndarray]], columns: int = 8) -> Image.Image:
    """Small pictures in reading order, each on its own tile; their names are in the table."""
    columns = min(columns, len(thumbnails))
    width = max(image.shape[1] for _, image in thumbnails)
    height = max(image.shape[0] for _, image in thumbnails)
    rows = math.ceil(len(thumbnails) / columns)
    gap = 4
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), _PAPER)
    for number, (_, image) in enumerate(thumbnails):
        row, column = divmod(number, columns)
        left = gap + column * (width + gap) + (width - image.shape[1]) // 2
        top = gap + row * (height + gap) + (height - image.shape[0]) // 2
        sheet.paste(Image.fromarray(image), (left, top))
    return sheet


def frustum_plot(cameras: Sequence[Camera]) -> Image.Image:
    """The cameras' frusta from above and from the side, blue first to red last.

    Up is what the images' rows are level to; both panels share one scale, and the bar says it.
    """
    up = up_direction(cameras)
    right, ahead = _horizontal_axes(cameras, up)
    step = math.ceil(len(cameras) / _MAX_FRUSTA)
    shown = list(cameras[::step])
    centres = np.stack([camera.centre for camera in cameras])
    depth = _frustum_depth(centres)
    outlines = [_frustum(camera, depth) for camera in shown]
    points = np.concatenate([centres, *outlines])
    middle = (points.max(0) + points.min(0)) / 2
    panels = [np.stack([right, -ahead]), np.stack([right, -up])]  # picture rows run downwards
    reach = max(float(np.abs((points - middle) @ axes.T).max()) for axes in panels)
    pixels_per_unit = (_PANEL_PX / 2 - _MARGIN_PX) / max(reach, 1e-9) * _SUPERSAMPLED
    size = _PANEL_PX * _SUPERSAMPLED
    plot = Image.new("RGB", (2 * size, size), _PAPER)
    draw = ImageDraw.Draw(plot)
    for number, (axes, title) in enumerate(
        zip(panels, ("from above", "from the side"), strict=True)
    ):
        origin = np.array([number * size + size / 2, size / 2])

        def place(world: np.ndarray, axes: np.ndarray = axes, origin: np.ndarray = origin) -> list:
            flat = (world - middle) @ axes.T * pixels_per_unit + origin
            return [tuple(point) for point in flat]

        draw.line(place(centres), fill=_FAINT, width=2 * _SUPERSAMPLED)
        for index, outline in enumerate(outlines):
            colour = _tint(index / max(len(outlines) - 1, 1))
            apex, *corners = place(outline)
            draw.line([*corners, corners[0]], fill=colour, width=_SUPERSAMPLED)
            for corner in corners:
                draw.line([apex, corner], fill=colour, width=_SUPERSAMPLED)
        draw.text((number * size + 20, 16), title, fill=_INK, font_size=14 * _SUPERSAMPLED)
    _scale_bar(draw, pixels_per_unit, size)
    return plot.resize((2 * _PANEL_PX, _PANEL_PX), Image.Resampling.LANCZOS)


def _horizontal_axes(cameras: Sequence[Camera], up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two horizontal unit axes, the second along the middle camera's view."""
    forward = cameras[len(cameras) // 2].forward
    ahead = forward - (forward @ up) * up
    if np.linalg.norm(ahead) < 1e-3:  # looking straight down: its image's up is ahead
        ahead = -cameras[len(cameras) // 2].c2w_cv[:3, 1]
        ahead = ahead - (ahead @ up) * up
    ahead = ahead / np.linalg.norm(ahead)
    return np.cross(ahead, up), ahead


def _frustum_depth(centres: np.ndarray) -> float:
    """How long a frustum is drawn: a twelfth of the cameras' spread."""
    spread = float(np.linalg.norm(np.ptp(centres, axis=0)))
    return spread / 12 if spread > 0 else 1.0


def _frustum(camera: Camera, depth: float) -> np.ndarray:
    """Centre and image corners at `depth`, world [5, 3]."""
    w, h = camera.width, camera.height
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float64)
    return np.vstack([camera.centre, camera.unproject(corners, np.full(4, depth))])


def _tint(position: float) -> tuple[int, int, int]:
    red, green, blue = (_FIRST + (_LAST - _FIRST) * position).round().astype(int)
    return int(red), int(green), int(blue)


def _scale_bar(draw: ImageDraw.ImageDraw, pixels_per_unit: float, size: int) -> None:
    """A bar of a round length, about a fifth of a panel."""
    wanted = size / 5 / pixels_per_unit
    power = 10.0 ** math.floor(math.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    left, top = 20, size - 30
    draw.line([(left, top), (left + length * pixels_per_unit, top)], fill=_INK, width=6)
    draw.text((left, top - 40), f"{length:g} units", fill=_INK, font_size=13 * _SUPERSAMPLED)
