"""What fusion takes in: a picture with depth and confidence, seen from a known camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from everview.datasets.cameras import Camera


@dataclass(frozen=True, eq=False)
class DepthView:
    """image: uint8 [H, W, 3]. depth: float32 [H, W] along z in world units, 0 where unknown.
    confidence: float32 [H, W] in (0, 1]. The camera's size is the image's."""

    camera: Camera
    image: np.ndarray
    depth: np.ndarray
    confidence: np.ndarray

    def __post_init__(self) -> None:
        size = (self.camera.height, self.camera.width)
        shapes = {self.image.shape[:2], self.depth.shape, self.confidence.shape}
        if shapes != {size}:
            raise ValueError(f"image, depth, confidence {shapes} don't match the camera's {size}")


def trusted_depth(view: DepthView, least_confidence: float, edge: float = 0.08) -> np.ndarray:
    """Depth with what should not be fused set to 0: unsure pixels and depth edges, float32 [H, W].

    A pixel on an edge mixes two surfaces and would smear a veil between them. Over a plane, however
    steep, inverse depth is linear in the pixel, so an edge is where its second difference, along
    either axis, exceeds the share `edge` of it: floors seen at a grazing angle stay.
    """
    depth = np.nan_to_num(view.depth, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    keep = (depth > 0) & (view.confidence >= least_confidence)
    inverse = np.where(depth > 0, 1 / np.maximum(depth, 1e-12), np.nan)
    for axis in (0, 1):
        width = [(1, 1) if other == axis else (0, 0) for other in (0, 1)]
        padded = np.pad(inverse, width, constant_values=np.nan)
        before = np.take(padded, np.arange(depth.shape[axis]), axis)
        after = np.take(padded, np.arange(depth.shape[axis]) + 2, axis)
        bend = np.abs(before + after - 2 * inverse)
        keep &= ~(bend > edge * inverse)  # NaN beside the unknown: no evidence of an edge
    return np.where(keep, depth, 0).astype(np.float32)


def voxel_size_for(scene_depth: float, is_measured: bool = True) -> float:
    """Voxel edge in world units for a scene whose typical depth is `scene_depth`.

    Measured depth: 1/80 of it, 1.4 pixels of a 128-pixel view of 60 degrees. Predicted depth is
    off by a few per cent, which the truncation band (5 voxels) must cover or surfaces double: 1/50.
    """
    return scene_depth / (80 if is_measured else 50)
