"""The cameras from above and from the side, as geometry for a template to draw as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from everview.datasets.cameras import Camera
from everview.pipeline.rendering.survey import up_direction
from everview.pipeline.report.charts import number, round_ticks
from everview.pipeline.report.contents import PlacedCamera

_WIDTH = 420
_TALLEST, _SHORTEST = 460, 150
_MARGIN = 34
_MAX_FRUSTA = 160
# How far a frustum reaches, as a share of the cameras' spread.
_FRUSTUM_SHARE = 0.07


@dataclass(frozen=True)
class Frustum:
    """One camera: SVG path of its pyramid, its role, and its place along the stream, 0 to 1."""

    path: str
    role: str
    shade: int
    label: str


@dataclass(frozen=True)
class CameraPanel:
    """One projection. path: the way of the camera centres. bar: a length of `bar_text` units."""

    title: str
    path: str
    frusta: tuple[Frustum, ...]
    bar: float
    bar_text: str
    width: int
    height: int


def camera_panels(cameras: Sequence[PlacedCamera], unit: str) -> tuple[CameraPanel, ...]:
    """From above and from the side, at one scale; empty without cameras.

    Up is what the images' rows are level to; the view from the side looks along the direction in
    which the cameras vary least.
    """
    if not cameras:
        return ()
    lenses = [placed.camera for placed in cameras]
    centres = np.stack([camera.centre for camera in lenses])
    up = up_direction(lenses)
    across, away = _horizontal_axes(centres, up, lenses[0])
    spread = float(np.linalg.norm(np.ptp(centres, axis=0))) or 1.0
    reach = _FRUSTUM_SHARE * spread
    kept = np.unique(
        np.linspace(0, len(cameras) - 1, min(_MAX_FRUSTA, len(cameras))).round().astype(int)
    )
    corners = {i: _corners(lenses[i], reach) for i in kept}
    everything = np.concatenate([centres, *corners.values()])
    middle = (everything.min(0) + everything.max(0)) / 2
    panels = (("from above", across, -away), ("from the side", across, -up))
    half_width = _extent(everything - middle, across)
    half_height = max(_extent(everything - middle, down) for _, _, down in panels)
    scale = min(
        (_WIDTH / 2 - _MARGIN) / half_width, (_TALLEST / 2 - _MARGIN) / half_height
    )  # fmt: skip
    height = round(max(_SHORTEST, 2 * (half_height * scale + _MARGIN)))
    bar_units = round_ticks(0.0, _WIDTH / 3 / scale, 2)[1]
    drawn = []
    for title, right, down in panels:
        axes = np.stack([right, down])

        def flat(points: np.ndarray, axes: np.ndarray = axes) -> np.ndarray:
            return (points - middle) @ axes.T * scale + (_WIDTH / 2, height / 2)

        frusta = tuple(
            Frustum(
                _pyramid(flat(lenses[i].centre[None])[0], flat(corners[i])),
                cameras[i].role,
                round(9 * i / max(len(cameras) - 1, 1)),
                f"camera {i}{', held out' if cameras[i].role == 'held_out' else ''}",
            )
            for i in kept
        )
        drawn.append(
            CameraPanel(title, _polyline(flat(centres)), frusta, round(bar_units * scale, 1),
                        f"{number(bar_units)} {unit}", _WIDTH, height)
        )  # fmt: skip
    return tuple(drawn)


def _extent(points: np.ndarray, axis: np.ndarray) -> float:
    return max(float(np.abs(points @ axis).max()), 1e-12)


def _horizontal_axes(
    centres: np.ndarray, up: np.ndarray, first: Camera
) -> tuple[np.ndarray, np.ndarray]:
    """Two horizontal unit axes; the first is the one along which the cameras spread most."""
    level = np.eye(3) - np.outer(up, up)
    spread = (centres - centres.mean(0)) @ level
    values, vectors = np.linalg.eigh(spread.T @ spread)
    across = vectors[:, -1] if values[-1] > 1e-12 else level @ first.c2w_cv[:3, 0]
    across = level @ across
    across = across / max(float(np.linalg.norm(across)), 1e-12)
    return across, np.cross(up, across)


def _corners(camera: Camera, reach: float) -> np.ndarray:
    """The image corners at distance `reach` along the axis, in the world [4, 3]."""
    w, h = camera.width, camera.height
    pixels = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float64)
    return camera.unproject(pixels, np.full(4, reach))


def _pyramid(centre: np.ndarray, corners: np.ndarray) -> str:
    c = _point(centre)
    a, b, d, e = (_point(corner) for corner in corners)
    return f"M{a} L{b} L{d} L{e} Z M{c} L{a} M{c} L{b} M{c} L{d} M{c} L{e}"


def _polyline(points: np.ndarray) -> str:
    step = -(-len(points) // 2000)
    return "M" + " L".join(_point(point) for point in points[::step])


def _point(point: np.ndarray) -> str:
    return f"{point[0]:.1f},{point[1]:.1f}"
