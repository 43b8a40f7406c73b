"""The two pictures of an inspection: a contact sheet, and the cameras from above and from the side.

A wrong convention shows at once: frusta that look away from the scene, or a walk on a wall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from everview.datasets.cameras import Camera
from everview.pipeline.report.camera_plot import CameraPanel, camera_panels
from everview.pipeline.report.contents import PlacedCamera

_GAP_PX = 4
# blue first, red last: the ten shades that a panel's frusta are numbered by
_SHADES = ("#2463eb", "#3c64d4", "#5365bd", "#6b66a6", "#83678f",
           "#9a6878", "#b26961", "#c46a52", "#d06849", "#dc4628")  # fmt: skip


def contact_sheet(thumbnails: Sequence[tuple[str, np.ndarray]], columns: int = 8) -> Image.Image:
    """Small pictures in reading order, centred in equal cells."""
    columns = min(columns, len(thumbnails))
    rows = math.ceil(len(thumbnails) / columns)
    width = max(image.shape[1] for _, image in thumbnails) + _GAP_PX
    height = max(image.shape[0] for _, image in thumbnails) + _GAP_PX
    sheet = Image.new("RGB", (columns * width + _GAP_PX, rows * height + _GAP_PX), "white")
    for number, (_, image) in enumerate(thumbnails):
        row, column = divmod(number, columns)
        left = column * width + (width + _GAP_PX - image.shape[1]) // 2
        top = row * height + (height + _GAP_PX - image.shape[0]) // 2
        sheet.paste(Image.fromarray(image), (left, top))
    return sheet


def frustum_plot(cameras: Sequence[Camera], unit: str) -> str:
    """The cameras' frusta as a standalone SVG, blue first to red last; unit: of the world."""
    panels = camera_panels([PlacedCamera(camera, "input") for camera in cameras], unit)
    width, height = sum(panel.width for panel in panels), max(panel.height for panel in panels)
    lefts = (sum(panel.width for panel in panels[:number]) for number in range(len(panels)))
    drawn = "".join(_panel(panel, left) for panel, left in zip(panels, lefts, strict=True))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="13" fill="none">'
        f'<rect width="100%" height="100%" fill="white"/>{drawn}</svg>\n'
    )


def _panel(panel: CameraPanel, left: int) -> str:
    bottom = panel.height - 12
    frusta = "".join(
        f'<path d="{frustum.path}" stroke="{_SHADES[frustum.shade]}"/>' for frustum in panel.frusta
    )
    return (
        f'<g transform="translate({left})"><path d="{panel.path}" stroke="#ccd2da"/>{frusta}'
        f'<path d="M12,{bottom} h{panel.bar}" stroke="#20262e" stroke-width="3"/>'
        f'<text x="12" y="{bottom - 8}" fill="#20262e">{escape(panel.bar_text)}</text>'
        f'<text x="12" y="22" fill="#20262e">{escape(panel.title)}</text></g>'
    )
