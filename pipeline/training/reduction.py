"""Views at a lower resolution, made on the device from those that the pool holds.

A curriculum over resolution (Wu et al., arXiv 1912.00998, for video; Anagnostidis et al., arXiv
2311.03233, by the size of patches) sees more scenes for the same work early on. A small pixel
covers a whole block of large ones, so its colour is their exact mean, and its centre the block's.

Shapes: B scenes, V views, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras


def reduced(
    images: Tensor, depth: Tensor, cameras: Cameras, side: int
) -> tuple[Tensor, Tensor, Cameras]:
    """Square views of `side` pixels: images [B, V, 3, H, W], z-depth [B, V, H, W] with 0 where
    unknown, and their cameras. side divides H = W.

    Images keep their range and become float32; they are what was given where nothing is to do.
    Depth is the harmonic mean of what is known in a block, unknown where nothing is: on a plane
    1/z is affine over the picture, so the mean of 1/z over a block is that of its centre.
    """
    if side == cameras.width:
        return images, depth, cameras
    means = _blocks(images.float(), side).mean((-3, -1))
    depths = _blocks(depth.float(), side)
    known = depths > 0
    inverse = torch.where(known, depths, torch.inf).reciprocal().sum((-3, -1))
    count = known.sum((-3, -1))
    mean = torch.where(count > 0, count / inverse, 0.0)
    return means, mean, cameras.resized(side, side)


def _blocks(picture: Tensor, side: int) -> Tensor:
    """[..., H, W] as [..., side, H / side, side, W / side]."""
    return picture.unflatten(-1, (side, -1)).unflatten(-3, (side, -1))
