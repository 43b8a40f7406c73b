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
    # q = K_s R_s^T (c + z r - c_s): project centre and ray once, then combine for every depth
    from_world = normalised_lens(sources) @ sources.c2w_cv[..., :3, :3].mT
    offset = cameras.centres[:, :, None] - sources.centres
    base = from_world @ offset[..., None]
    turned = from_world @ rays_BVP3.mT[:, :, None]
    # points are innermost in memory: elementwise loops over a few depths would be too short
    depth = depth_BVPJ.mT[:, :, None]
    x, y, z = (
        torch.addcmul(base[..., axis, :, None], depth, turned[..., axis, None, :])
        for axis in range(3)
    )
    safe = z.clamp_min(1e-3)
    u, v = x / safe, y / safe
    inside = (torch.maximum(u.abs(), v.abs()) < 1) & (z > 1e-3)
    # far outside, coordinates grow without bound and half-precision samplers overflow
    coordinates = torch.stack([u.clamp(-2, 2), v.clamp(-2, 2)], -3)
    return coordinates.movedim(-3, -1).transpose(-3, -2), inside.mT


def normalised_lens(sources: Cameras) -> Tensor:
    """[..., 3, 3] from points before a camera to (image in [-1, 1] times depth, depth)."""
    fx, fy, cx, cy = sources.intrinsics.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    across = torch.stack([2 / sources.width * fx, zero, 2 / sources.width * cx - 1], -1)
    down = torch.stack([zero, 2 / sources.height * fy, 2 / sources.height * cy - 1], -1)
    return torch.stack([across, down, torch.stack([zero, zero, one], -1)], -2)


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
        coordinates.flatten(0, 2).transpose(1, 2).to(maps_BVSCHW.dtype),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled.mT.unflatten(0, lead)


def sample_along_rays(
    cameras: Cameras,
    stride: int,
    depth_BVPJ: Tensor,
    maps_BKCHW: Tensor,
    sources: Cameras,
    index_BVS: Tensor,
    valid_BVS: Tensor,
) -> tuple[Tensor, Tensor]:
    """What the sources of each view show at these depths behind the centres of its blocks of
    stride x stride pixels (depths that all blocks share may have P = 1).

    sources: cameras of the frames `index` of the bank, whose maps are sampled. Returns samples
    [B, V, S, C, P, J], and who sees the point [B, V, S, P, J]: no source that isn't valid does.
    """
    pixels = pixel_grid(cameras.height, cameras.width, stride, maps_BKCHW.device)
    rays = point_rays(cameras, pixels)
    coordinates, inside = project_into_sources(cameras, rays, depth_BVPJ, sources)
    samples = sample_sources(gather_frames(maps_BKCHW, index_BVS), coordinates)
    return samples, inside & valid_BVS[..., None, None]
