"""Copying from source frames: lift a view's pixels to depths, find them in the sources, sample.

Shapes: B scenes, V views, K frames of a bank, S sources of a view, J depths, P points of a view.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from everview.datasets.cameras import Cameras


def point_rays(cameras: Cameras, pixels: Tensor) -> Tensor:
    """World directions of unit z-depth through `pixels` [P, 2] of each camera: [B, V, P, 3]."""
    fx, fy, cx, cy = cameras.intrinsics[..., None].unbind(-2)
    x = (pixels[:, 0] - cx) / fx
    y = (pixels[:, 1] - cy) / fy
    seen = torch.stack([x, y, torch.ones_like(x)], -1)
    return torch.einsum("bvij,bvpj->bvpi", cameras.c2w_cv[..., :3, :3], seen)


def pixel_grid(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Centres of stride x stride blocks, row by row: [P, 2] pixels."""
    u = torch.arange(width // stride, device=device, dtype=torch.float32) * stride + stride / 2
    v = torch.arange(height // stride, device=device, dtype=torch.float32) * stride + stride / 2
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).reshape(-1, 2)


def project_into_sources(
    cameras: Cameras, rays_BVP3: Tensor, depth_BVPJ: Tensor, sources: Cameras
) -> tuple[Tensor, Tensor]:
    """Where points at these depths land in the sources [B, V, S].

    Returns sampling coordinates in [-1, 1] (grid_sample without aligned corners) [B, V, S, P, J, 2]
    and whether the point lies in front of and inside the source [B, V, S, P, J].
    """
    # q = R_s^T (c + z r - c_s): project centre and ray once, then combine for every depth
    to_source = sources.c2w_cv[..., :3, :3].mT
    offset = cameras.centres[:, :, None] - sources.centres
    base = (to_source @ offset[..., None])[..., 0][..., None, None, :]
    turned = torch.einsum("bvsij,bvpj->bvspi", to_source, rays_BVP3)[..., None, :]
    points = base + depth_BVPJ[:, :, None, ..., None] * turned
    z = points[..., 2]
    fx, fy, cx, cy = sources.intrinsics[..., None, None].unbind(-3)
    safe = z.clamp_min(1e-3)
    u = (fx * points[..., 0] / safe + cx) * (2 / sources.width) - 1
    v = (fy * points[..., 1] / safe + cy) * (2 / sources.height) - 1
    inside = (z > 1e-3) & (u.abs() < 1) & (v.abs() < 1)
    # far outside, coordinates grow without bound and half-precision samplers overflow
    return torch.stack([u.clamp(-2, 2), v.clamp(-2, 2)], -1), inside


def gather_frames(per_frame_BK: Tensor, index_BVS: Tensor) -> Tensor:
    """Per-frame maps [B, K, ...] of each view's sources: [B, V, S, ...]."""
    # one flat index_select: its backward is an indexed addition, where that of indexing by two
    # tensors sorts
    scenes, frames = per_frame_BK.shape[:2]
    first = torch.arange(scenes, device=index_BVS.device)[:, None, None] * frames
    flat = per_frame_BK.flatten(0, 1).index_select(0, (index_BVS + first).flatten())
    return flat.unflatten(0, index_BVS.shape)


def sample_sources(maps_BVSCHW: Tensor, coordinates: Tensor) -> Tensor:
    """Bilinear samples [B, V, S, C, P, J] of the sources' maps at [B, V, S, P, J, 2]."""
    lead = maps_BVSCHW.shape[:3]
    sampled = functional.grid_sample(
        maps_BVSCHW.flatten(0, 2),
        coordinates.flatten(0, 2).to(maps_BVSCHW.dtype),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled.unflatten(0, lead)
