"""Lenses: distorted cameras as files state them, and their removal, once, at reading.

A `Lens` takes a direction (x, y) = (X/Z, Y/Z) to a pixel through one of five distortion models, in
the formulas of OpenCV (`opencv`, `fisheye`) and COLMAP (`thin_prism_fisheye`, `fov`). Frames leave
the readers as pinhole images: `Lens.rectified()` is the pinhole, `rectify` resamples the pixels.
Pixel coordinates have the first pixel's centre at (0.5, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Camera
from everview.datasets.errors import DataError

# Coefficients of each model, in order; missing ones are 0.
COEFFICIENTS = {
    "pinhole": (),
    "opencv": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "fisheye": ("k1", "k2", "k3", "k4"),
    "thin_prism_fisheye": ("k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1"),
    "fov": ("omega",),
}
_LARGEST_ZOOM = 4.0


@dataclass(frozen=True)
class Lens:
    """Intrinsics with distortion, for an image of width x height pixels.

    fx, fy, cx, cy: pixels. distortion: the coefficients of `model`, in the order of COEFFICIENTS.
    width = height = 1 states intrinsics as fractions of any image (RealEstate10K).
    Raises ValueError on values that no lens has.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: str = "pinhole"
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.model not in COEFFICIENTS:
            raise ValueError(f"lens model {self.model!r} is none of {', '.join(COEFFICIENTS)}")
        padded = self.distortion + (0.0,) * (len(COEFFICIENTS[self.model]) - len(self.distortion))
        if len(padded) != len(COEFFICIENTS[self.model]):
            raise ValueError(f"{self.model} lens with {len(self.distortion)} coefficients")
        object.__setattr__(self, "distortion", padded)
        numbers = (self.fx, self.fy, self.cx, self.cy, *padded)
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"intrinsics {numbers} are not finite")
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"focal lengths {self.fx}, {self.fy} px are not positive")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"image size {self.width}x{self.height} is not positive")

    @property
    def is_pinhole(self) -> bool:
        """Whether rectifying would change nothing."""
        if self.model in ("fisheye", "thin_prism_fisheye"):
            return False  # equidistant projection bends lines even with all coefficients 0
        return not any(self.distortion)

    def fitted(self, width: int, height: int) -> Lens:
        """The lens of the same image stored at width x height pixels.

        Raises ValueError when the aspect differs by more than rounding: that is another image.
        """
        if (width, height) == (self.width, self.height):
            return self
        sx, sy = width / self.width, height / self.height
        slack = 1.0 / min(width, height) + 1.0 / min(self.width, self.height)
        if min(self.width, self.height) > 1 and abs(sx / sy - 1.0) > slack:
            raise ValueError(
                f"the image has {width}x{height} pixels, its intrinsics are for "
                f"{self.width}x{self.height}"
            )
        return replace(
            self, width=width, height=height,
            fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy,
        )  # fmt: skip

    def project(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Directions (X/Z, Y/Z) to pixels (u, v), distortion included; any one shape."""
        x, y = _DISTORT[self.model](np.asarray(x, np.float64), np.asarray(y, np.float64),
                                    self.distortion)  # fmt: skip
        return self.fx * x + self.cx, self.fy * y + self.cy

    def rectified(self) -> Lens:
        """The pinhole lens whose image `rectify` makes: same size, same principal point.

        The focal length stays (the centre keeps its sharpness), or grows as little as is needed
        for every pixel to come from inside the source: there are no blank borders.
        """
        return _rectified(self)

    def camera(self, c2w_cv: np.ndarray) -> Camera:
        """The rectified camera at a pose. Raises ValueError as Camera does."""
        lens = self.rectified()
        return Camera(lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy, c2w_cv)


def rectify(lens: Lens, values: np.ndarray) -> np.ndarray:
    """Pixels seen through `lens` as its pinhole sees them.

    uint8 [H, W, 3] is resampled bicubically, anything else [H, W] (depth, masks) by the nearest
    pixel, since neighbours across an edge must not mix.
    """
    if lens.is_pinhole:
        return values
    grid = _sampling_grid(lens)
    is_colour = values.ndim == 3
    source = torch.from_numpy(np.ascontiguousarray(values)).float()
    source = source.permute(2, 0, 1) if is_colour else source[None]
    sampled = torch.nn.functional.grid_sample(
        source[None], grid[None], mode="bicubic" if is_colour else "nearest",
        padding_mode="border", align_corners=False,
    )[0]  # fmt: skip
    if is_colour:
        return sampled.round_().clamp_(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
    return sampled[0].numpy().astype(values.dtype)


@lru_cache(maxsize=256)
def _rectified(lens: Lens) -> Lens:
    if lens.is_pinhole:
        return replace(lens, model="pinhole", distortion=())
    if not _is_covered(lens, _LARGEST_ZOOM):
        raise ValueError(f"distortion {lens.distortion} folds the image of this {lens.model} lens")
    low, high = 1.0, _LARGEST_ZOOM
    if _is_covered(lens, low):
        high = low
    while high - low > 1e-5:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if _is_covered(lens, middle) else (middle, high)
    return replace(lens, fx=lens.fx * high, fy=lens.fy * high, model="pinhole", distortion=())


def _is_covered(lens: Lens, zoom: float) -> bool:
    """Whether every pixel of the pinhole image at `zoom` times the focal length has a source.

    The border decides for the rest, if radii grow all the way out to it (no fold).
    """
    t = np.linspace(0.0, 1.0, 65)
    border_u = np.concatenate([t, t, 0 * t, 0 * t + 1]) * lens.width
    border_v = np.concatenate([0 * t, 0 * t + 1, t, t]) * lens.height
    x = (border_u - lens.cx) / (lens.fx * zoom)
    y = (border_v - lens.cy) / (lens.fy * zoom)
    u, v = lens.project(x, y)
    tolerance = 1e-3
    inside = (u >= -tolerance) & (u <= lens.width + tolerance)
    inside &= (v >= -tolerance) & (v <= lens.height + tolerance)
    along = np.linspace(0.0, 1.0, 17)[:, None]
    ray_u, ray_v = lens.project(along * x, along * y)
    radii = np.hypot((ray_u - lens.cx) / lens.fx, (ray_v - lens.cy) / lens.fy)
    return bool(inside.all() and (np.diff(radii, axis=0) > -1e-9).all())


@lru_cache(maxsize=2)  # a 4K map is 66 MB
def _sampling_grid(lens: Lens) -> Tensor:
    """Source position of every output pixel, float32 [H, W, 2] in grid_sample's [-1, 1]."""
    pinhole = lens.rectified()
    u = (np.arange(lens.width) + 0.5 - pinhole.cx) / pinhole.fx
    v = (np.arange(lens.height) + 0.5 - pinhole.cy) / pinhole.fy
    x, y = np.meshgrid(u, v, indexing="xy")
    source_u, source_v = lens.project(x, y)
    grid = np.stack([2 * source_u / lens.width - 1, 2 * source_v / lens.height - 1], -1)
    return torch.from_numpy(grid.astype(np.float32))


Pair = tuple[np.ndarray, np.ndarray]


def _pinhole(x: np.ndarray, y: np.ndarray, _: tuple[float, ...]) -> Pair:
    return x, y


def _opencv(x: np.ndarray, y: np.ndarray, coefficients: tuple[float, ...]) -> Pair:
    """Brown-Conrady with the rational radial term (OpenCV `projectPoints`, COLMAP FULL_OPENCV)."""
    k1, k2, p1, p2, k3, k4, k5, k6 = coefficients
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
    )


def _equidistant(x: np.ndarray, y: np.ndarray) -> Pair:
    """Directions to the sphere's chart in which radius is the angle from the axis."""
    r = np.hypot(x, y)
    ratio = np.where(r > 1e-8, np.arctan(r) / np.maximum(r, 1e-8), 1.0)
    return x * ratio, y * ratio


def _fisheye(x: np.ndarray, y: np.ndarray, coefficients: tuple[float, ...]) -> Pair:
    """Kannala-Brandt (OpenCV `fisheye`, COLMAP OPENCV_FISHEYE)."""
    k1, k2, k3, k4 = coefficients
    x, y = _equidistant(x, y)
    t2 = x * x + y * y
    scale = 1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))
    return x * scale, y * scale


def _thin_prism_fisheye(x: np.ndarray, y: np.ndarray, coefficients: tuple[float, ...]) -> Pair:
    """COLMAP THIN_PRISM_FISHEYE: equidistant chart, then radial, tangential and prism terms."""
    k1, k2, p1, p2, k3, k4, sx1, sy1 = coefficients
    x, y = _equidistant(x, y)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x) + sx1 * r2,
        y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y) + sy1 * r2,
    )


def _fov(x: np.ndarray, y: np.ndarray, coefficients: tuple[float, ...]) -> Pair:
    """Devernay and Faugeras' field-of-view model (COLMAP FOV)."""
    (omega,) = coefficients
    if abs(omega) < 1e-8:
        return x, y
    r = np.hypot(x, y)
    bent = np.arctan(2 * r * math.tan(omega / 2)) / omega
    ratio = np.where(r > 1e-8, bent / np.maximum(r, 1e-8), 2 * math.tan(omega / 2) / omega)
    return x * ratio, y * ratio


_DISTORT: dict[str, Callable[[np.ndarray, np.ndarray, tuple[float, ...]], Pair]] = {
    "pinhole": _pinhole,
    "opencv": _opencv,
    "fisheye": _fisheye,
    "thin_prism_fisheye": _thin_prism_fisheye,
    "fov": _fov,
}


def lens_of(where: object, **values: object) -> Lens:
    """A Lens, with what is wrong with it as a DataError that names the file."""
    try:
        return Lens(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
