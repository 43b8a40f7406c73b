"""What a token knows about where and when it looks: rays in the gauge and the clock.

Rays stay in float32 until they are embedded. Shapes: B scenes, V views, T tokens of a view,
H rows, W columns, P patch side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.datasets.cameras import Cameras
from everview.models.warping import pixel_grid, point_rays

_SHORTEST_PERIOD_S, _LONGEST_PERIOD_S = 0.1, 3 * 3600.0


def pluecker(cameras: Cameras) -> Tensor:
    """Origin, unit direction and moment o x d of every pixel's ray: [B, V, 9, H, W], float32."""
    with torch.autocast(cameras.c2w_cv.device.type, enabled=False):
        seen = cameras.sight_lines()
        origins = cameras.centres[..., None]
        turn = cameras.c2w_cv[..., :3, :3]
        # o x (R s) = (o x R) s: one product gives directions and moments
        both = torch.cat([turn, torch.linalg.cross(origins.expand_as(turn), turn, dim=-2)], -2)
        turned = (both @ seen.flatten(-2)).unflatten(-1, seen.shape[-2:])
        origins = origins[..., None].expand(*turned.shape[:-3], 3, *seen.shape[-2:])
        return torch.cat([origins, turned], -3)


def patchify(maps: Tensor, patch: int) -> Tensor:
    """[B, V, C, H, W] to tokens [B, V, T, C P P], row by row."""
    b, v, c, h, w = maps.shape
    if h % patch or w % patch:
        raise ValueError(f"image of {w}x{h} is not a multiple of the {patch} pixel patch")
    split = maps.reshape(b, v, c, h // patch, patch, w // patch, patch)
    return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(b, v, -1, c * patch * patch)


def unpatchify(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Inverse of `patchify`: [B, V, T, C P P] to [B, V, C, H, W]."""
    b, v, _, packed = tokens.shape
    c = packed // patch**2
    split = tokens.reshape(b, v, height // patch, width // patch, c, patch, patch)
    return split.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, v, c, height, width)


class TimeCode(nn.Module):
    """Sine and cosine of seconds since the stream began at log-spaced periods, 0.1 s to 3 h,
    embedded; unknown times (NaN) get a learned code."""

    rates: Tensor

    def __init__(self, periods: int, dim: int) -> None:
        super().__init__()
        spaced = torch.logspace(0, 1, periods, base=_LONGEST_PERIOD_S / _SHORTEST_PERIOD_S)
        rates = 2 * torch.pi / (_SHORTEST_PERIOD_S * spaced)
        self.register_buffer("rates", rates, persistent=False)
        self.embed = nn.Linear(2 * periods, dim, bias=False)
        self.unknown = nn.Parameter(torch.zeros(dim))

    def forward(self, time_s: Tensor) -> Tensor:
        """Seconds [B, V] (NaN unknown) to codes [B, V, C]."""
        known = time_s.isfinite()
        phase = time_s.nan_to_num(0.0)[..., None].to(self.rates) * self.rates
        code = self.embed(torch.cat([phase.sin(), phase.cos()], -1).to(self.embed.weight.dtype))
        return torch.where(known[..., None], code, self.unknown.to(code.dtype))


def foot_code(cameras: Cameras, patch: int) -> Tensor:
    """Where each patch's central ray passes the place that a capture most likely looks at: sines
    and cosines of the ray's nearest point to one unit before the gauge's camera, [B, V, T, 36].

    Rays of different cameras that meet near there get codes alike, which their Pluecker
    coordinates don't give away linearly.
    """
    with torch.autocast(cameras.c2w_cv.device.type, enabled=False):
        pixels = pixel_grid(cameras.height, cameras.width, patch, cameras.c2w_cv.device)
        directions = functional.normalize(point_rays(cameras, pixels), dim=-1)
        offset = cameras.centres - torch.eye(3, device=pixels.device)[2]
        offset = offset[:, :, None].to(directions)
        foot = offset - (offset * directions).sum(-1, keepdim=True) * directions
        rates = torch.pi * 2.0 ** torch.arange(-2, 4, device=pixels.device)
        phase = (foot[..., None] * rates.to(foot)).flatten(-2)
        return torch.cat([phase.sin(), phase.cos()], -1)


class TokenEmbedding(nn.Module):
    """Tokens of views: colour and rays through linears and norms of their own, summed.

    One linear over both would let a far origin drown colour (at 100 units it is 0.006 % of the
    variance). What is missing has a learned code. foot: whether rays have `foot_code` beside their
    Pluecker coordinates.
    """

    def __init__(self, dim: int, patch: int, periods: int, foot: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.colour = nn.Linear(3 * patch**2, dim, bias=False)
        self.colour_norm = nn.LayerNorm(dim, bias=False)
        self.no_colour = nn.Parameter(torch.zeros(dim))
        self.ray = nn.Linear(9 * patch**2, dim, bias=False)
        self.ray_norm = nn.LayerNorm(dim, bias=False)
        self.foot = nn.Linear(36, dim, bias=False) if foot else None
        self.foot_norm = nn.LayerNorm(dim, bias=False) if foot else None
        self.time = TimeCode(periods, dim)

    def forward(self, cameras: Cameras, images: Tensor | None, time_s: Tensor) -> Tensor:
        """cameras [B, V] in the gauge, images [B, V, 3, H, W] in [0, 1] or None, time_s [B, V]
        since the stream's origin: tokens [B, V, T, C]."""
        rays = patchify(pluecker(cameras).to(self.ray.weight.dtype), self.patch)
        tokens = self.ray_norm(self.ray(rays))
        if self.foot is not None and self.foot_norm is not None:
            foot = foot_code(cameras, self.patch).to(rays.dtype)
            tokens = tokens + self.foot_norm(self.foot(foot))
        tokens = tokens + self.time(time_s)[:, :, None]
        if images is None:
            return tokens + self.no_colour.to(tokens.dtype)
        pixels = patchify(images.to(self.colour.weight.dtype) * 2 - 1, self.patch)
        return tokens + self.colour_norm(self.colour(pixels))
