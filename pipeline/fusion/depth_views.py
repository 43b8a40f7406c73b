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


def trusted_depth(view: DepthView, least_confidence: float, edge: float = 0.1) -> np.ndarray:
    """Depth with what should not be fused set to 0: unsure pixels and depth edges, float32 [H, W].

    edge: relative jump to a neighbour from which a pixel is taken for a mix of two surfaces; such
    pixels smear a veil between foreground and background.
    """
    depth = np.nan_to_num(view.depth, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    keep = (depth > 0) & (view.confidence >= least_confidence)
    padded = np.pad(depth, 1, mode="edge")
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        height, width = depth.shape
        neighbour = padded[rows : rows + height, columns : columns + width]
        with np.errstate(invalid="ignore"):
            keep &= (neighbour <= 0) | (np.abs(neighbour - depth) < edge * depth)
    return np.where(keep, depth, 0).astype(np.float32)


def voxel_size_for(scene_depth: float, is_measured: bool = True) -> float:
    """Voxel edge in world units for a scene whose typical depth is `scene_depth`.

    Measured depth: 1/100 of it, about a pixel of a 128-pixel view of 60 degrees. Predicted depth is
    off by a few per cent, which the truncation band (5 voxels) must cover or surfaces double: 1/50.
    """
    return scene_depth / (100 if is_measured else 50)
