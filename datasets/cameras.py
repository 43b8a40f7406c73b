"""Cameras: the one value type that every room shares.

Conventions, once: pinhole intrinsics in pixels of a stated width x height; `c2w_cv` is the 4x4
camera-to-world matrix in OpenCV axes (x right, y down, z forward). The centre of pixel (column i,
row j) lies at (i + 0.5, j + 0.5), so the image spans [0, width] x [0, height]. Depth is distance
along the camera's z axis.

Shapes: B scenes, V views, H rows, W columns; `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

# OpenGL axes (x right, y up, z backward) against OpenCV axes: the same camera, other names.
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])


def opencv_from_opengl(c2w_gl: np.ndarray) -> np.ndarray:
    """`c2w_cv` of a camera whose OpenGL camera-to-world is `c2w_gl` [..., 4, 4]; same world."""
    return np.asarray(c2w_gl, np.float64) @ _FLIP_YZ


def opengl_from_opencv(c2w_cv: np.ndarray) -> np.ndarray:
    """Inverse of `opencv_from_opengl` (the flip is its own inverse)."""
    return np.asarray(c2w_cv, np.float64) @ _FLIP_YZ


def invert_rigid(matrix: np.ndarray) -> np.ndarray:
    """Inverse of rigid 4x4 matrices [..., 4, 4], by transposition: w2c from c2w and back."""
    matrix = np.asarray(matrix, np.float64)
    rotation = np.swapaxes(matrix[..., :3, :3], -1, -2)
    inverse = np.zeros_like(matrix)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation, matrix[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera. Raises ValueError on sizes, focals or poses that no camera has.

    width, height: pixels. fx, fy, cx, cy: pixels. c2w_cv: float64 [4, 4], rigid.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    c2w_cv: np.ndarray

    def __post_init__(self) -> None:
        pose = np.array(self.c2w_cv, np.float64)
        if pose.shape != (4, 4):
            raise ValueError(f"camera-to-world has shape {pose.shape}, expected (4, 4)")
        if not np.isfinite(pose).all():
            raise ValueError("camera-to-world holds values that are not finite")
        if not np.allclose(pose[3], [0, 0, 0, 1], atol=1e-5):
            raise ValueError(f"last row of camera-to-world is {pose[3].tolist()}, not 0 0 0 1")
        rotation = pose[:3, :3]
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
            raise ValueError("camera-to-world is not rigid: its rotation has scale or shear")
        if np.linalg.det(rotation) < 0:
            raise ValueError("camera-to-world mirrors space (determinant -1): wrong axes")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"image size {self.width}x{self.height} is not positive")
        numbers = (self.fx, self.fy, self.cx, self.cy)
        if not np.isfinite(numbers).all():
            raise ValueError(f"intrinsics {numbers} are not finite")
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"focal lengths {self.fx}, {self.fy} px are not positive")
        pose.setflags(write=False)
        object.__setattr__(self, "c2w_cv", pose)

    @staticmethod
    def of_row(width: int, height: int, intrinsics: Sequence[float], c2w_cv: np.ndarray) -> Camera:
        """The camera whose intrinsics are a row fx, fy, cx, cy, as `Cameras` holds them."""
        fx, fy, cx, cy = map(float, intrinsics)
        return Camera(width, height, fx, fy, cx, cy, c2w_cv)

    @property
    def w2c_cv(self) -> np.ndarray:
        """World-to-camera, float64 [4, 4]."""
        return invert_rigid(self.c2w_cv)

    @property
    def intrinsics(self) -> np.ndarray:
        """The 3x3 matrix K in pixels, float64."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    @property
    def centre(self) -> np.ndarray:
        """Camera centre in the world, float64 [3]."""
        return self.c2w_cv[:3, 3]

    @property
    def forward(self) -> np.ndarray:
        """Optical axis in the world, unit, float64 [3]."""
        return self.c2w_cv[:3, 2]

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the same image resampled to width x height pixels."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height,
            fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy,
        )  # fmt: skip

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """The camera of the window that starts at pixel (left, top)."""
        return replace(self, width=width, height=height, cx=self.cx - left, cy=self.cy - top)

    def moved(self, c2w_cv: np.ndarray) -> Camera:
        """The same lens at another pose."""
        return replace(self, c2w_cv=c2w_cv)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points [..., 3] to pixels [..., 2] and depth along z [...] (<= 0 is behind)."""
        w2c = self.w2c_cv
        seen = np.asarray(points, np.float64) @ w2c[:3, :3].T + w2c[:3, 3]
        depth = seen[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            u = self.fx * seen[..., 0] / depth + self.cx
            v = self.fy * seen[..., 1] / depth + self.cy
        return np.stack([u, v], -1), depth

    def unproject(self, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] at z-depth [...] to world points [..., 3]."""
        pixels, depth = np.asarray(pixels, np.float64), np.asarray(depth, np.float64)
        x = (pixels[..., 0] - self.cx) / self.fx * depth
        y = (pixels[..., 1] - self.cy) / self.fy * depth
        seen = np.stack([x, y, depth], -1)
        return seen @ self.c2w_cv[:3, :3].T + self.c2w_cv[:3, 3]

    def pixel_centres(self) -> np.ndarray:
        """Pixel coordinates of every pixel's centre, float64 [H, W, 2]."""
        u = np.arange(self.width) + 0.5
        v = np.arange(self.height) + 0.5
        return np.stack(np.meshgrid(u, v, indexing="xy"), -1)


@dataclass(frozen=True, eq=False)
class Cameras:
    """The batched twin of Camera, of one image size.

    width, height: pixels. intrinsics: [..., 4] = fx, fy, cx, cy in pixels.
    c2w_cv: [..., 4, 4] with the same leading axes, usually [B, V].
    """

    width: int
    height: int
    intrinsics: Tensor
    c2w_cv: Tensor

    def __post_init__(self) -> None:
        lead = self.c2w_cv.shape[:-2]
        if self.c2w_cv.shape[-2:] != (4, 4) or self.intrinsics.shape != (*lead, 4):
            raise ValueError(
                f"intrinsics {tuple(self.intrinsics.shape)} and c2w_cv "
                f"{tuple(self.c2w_cv.shape)} are not [..., 4] and [..., 4, 4]"
            )

    @staticmethod
    def stack(cameras: Sequence[Camera]) -> Cameras:
        """[V] cameras of one size, float64 on the CPU (compose first, cast to float32 after)."""
        if not cameras:
            raise ValueError("no cameras to stack")
        width, height = cameras[0].width, cameras[0].height
        for camera in cameras:
            if (camera.width, camera.height) != (width, height):
                raise ValueError(
                    f"cameras of {camera.width}x{camera.height} and {width}x{height} in one stack"
                )
        intrinsics = np.array([[c.fx, c.fy, c.cx, c.cy] for c in cameras], np.float64)
        poses = np.stack([c.c2w_cv for c in cameras])
        return Cameras(width, height, torch.from_numpy(intrinsics), torch.from_numpy(poses))

    @property
    def shape(self) -> torch.Size:
        """Leading axes, usually [B, V]."""
        return self.c2w_cv.shape[:-2]

    @property
    def centres(self) -> Tensor:
        """Camera centres [..., 3]."""
        return self.c2w_cv[..., :3, 3]

    @property
    def forwards(self) -> Tensor:
        """Unit optical axes [..., 3]."""
        return self.c2w_cv[..., :3, 2]

    def __getitem__(self, index: Any) -> Cameras:
        """Index the leading axes."""
        return replace(self, intrinsics=self.intrinsics[index], c2w_cv=self.c2w_cv[index])

    def to(self, *args: Any, **kwargs: Any) -> Cameras:
        """As Tensor.to, on both tensors."""
        return replace(
            self,
            intrinsics=self.intrinsics.to(*args, **kwargs),
            c2w_cv=self.c2w_cv.to(*args, **kwargs),
        )

    def unbind(self) -> list[Camera]:
        """Every camera as a Camera, in row-major order of the leading axes."""
        intrinsics = self.intrinsics.reshape(-1, 4).double().cpu().numpy()
        poses = self.c2w_cv.reshape(-1, 4, 4).double().cpu().numpy()
        return [
            Camera.of_row(self.width, self.height, row, pose)
            for row, pose in zip(intrinsics, poses, strict=True)
        ]

    def resized(self, width: int, height: int) -> Cameras:
        """The cameras of the same images resampled to width x height pixels."""
        sx, sy = width / self.width, height / self.height
        fx, fy, cx, cy = self.intrinsics.unbind(-1)
        scaled = torch.stack([fx * sx, fy * sy, cx * sx, cy * sy], -1)
        return replace(self, width=width, height=height, intrinsics=scaled)

    def rays(self) -> tuple[Tensor, Tensor]:
        """Origins [..., 3] and unit directions [..., H, W, 3] of pixel centres, in the world."""
        turned = torch.einsum("...ij,...jhw->...hwi", self.c2w_cv[..., :3, :3], self.sight_lines())
        return self.centres, turned

    def sight_lines(self) -> Tensor:
        """Unit directions [..., 3, H, W] through the pixel centres, in the camera's own axes."""
        dtype, device = self.c2w_cv.dtype, self.c2w_cv.device
        u = torch.arange(self.width, dtype=dtype, device=device) + 0.5
        v = torch.arange(self.height, dtype=dtype, device=device) + 0.5
        fx, fy, cx, cy = self.intrinsics[..., None, None].unbind(-3)
        x = (u - cx) / fx
        y = (v[:, None] - cy) / fy
        shorten = (x.square() + y.square() + 1).rsqrt()
        return torch.stack([x * shorten, y * shorten, shorten], -3)


def concatenate(parts: Sequence[Cameras], dim: int = -1) -> Cameras:
    """Join along a leading axis (default: views, the last)."""
    axis = dim if dim >= 0 else len(parts[0].shape) + dim
    sizes = {(part.width, part.height) for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"cameras of several sizes can't be joined: {sorted(sizes)}")
    return replace(
        parts[0],
        intrinsics=torch.cat([part.intrinsics for part in parts], axis),
        c2w_cv=torch.cat([part.c2w_cv for part in parts], axis),
    )
