"""Heads: from a query's tokens to colour, depth and confidence; and the copy from source pixels.

Depth leaves the network as log depth in gauge units; confidence as the log of the expected absolute
colour error (a Laplace scale).

Shapes: B scenes, V views, T patches, S sources, J offsets, H rows, W columns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.datasets.cameras import Cameras
from everview.models.config import BankConfig
from everview.models.rays import unpatchify
from everview.models.warping import sample_along_rays

FEATURES = 4
_DEPTH_CORRECTION = 2.0  # largest, in steps between two depths


class Decoded(NamedTuple):
    """Per pixel: rgb [B, V, 3, H, W] in (0, 1), log_depth, log_scale [B, V, H, W],
    features [B, V, FEATURES, H, W] for the refinement; per view: spacing [B, V] of the log depths
    that were told apart. fine: more features, of the fine sweep [B, V, F, H, W]."""

    rgb: Tensor
    log_depth: Tensor
    log_scale: Tensor
    features: Tensor
    spacing: Tensor
    fine: Tensor | None


class TokenHead(nn.Module):
    """Tokens to pixels: LayerNorm, one linear, pixels of each patch side by side.

    Depth is the mean log depth of a distribution over evenly spaced log depths, one a patch,
    interpolated, plus a small correction a pixel. Depths and a first opinion about them come from
    the frame bank; without it the depths are fixed.
    """

    log_depths: Tensor

    def __init__(self, dim: int, patch: int, depths: tuple[float, float, int]) -> None:
        """depths: nearest, farthest (gauge units) and number of the fixed depths."""
        super().__init__()
        near, far, count = depths
        self.patch = patch
        self.norm = nn.LayerNorm(dim, bias=False)
        self.pixels = nn.Linear(dim, (5 + FEATURES) * patch**2)
        self.depth = nn.Linear(dim, count)
        spaced = torch.linspace(math.log(near), math.log(far), count)
        self.register_buffer("log_depths", spaced, persistent=False)

    def forward(
        self,
        tokens_BVTC: Tensor,
        height: int,
        width: int,
        log_depths_BVJ: Tensor | None = None,
        opinion_BVTJ: Tensor | None = None,
    ) -> Decoded:
        """Tokens [B, V, T, C] of height x width views; log_depths: other depths than the fixed
        ones; opinion: logits over them, to which the tokens' are added."""
        normed = self.norm(tokens_BVTC)
        maps = unpatchify(self.pixels(normed), self.patch, height, width)
        maps = maps if maps.dtype == torch.float64 else maps.float()
        logits = self.depth(normed).to(maps.dtype)
        logits = logits if opinion_BVTJ is None else logits + opinion_BVTJ
        depths = self.log_depths.expand(*logits.shape[:2], -1)
        depths = (depths if log_depths_BVJ is None else log_depths_BVJ).to(maps.dtype)
        smooth = mean_log_depth(logits, depths, height // self.patch, (height, width))
        spacing = depths[..., 1] - depths[..., 0]
        correction = _DEPTH_CORRECTION * spacing[..., None, None] * torch.tanh(maps[:, :, 3])
        return Decoded(
            torch.sigmoid(maps[:, :, :3]),
            smooth + correction,
            maps[:, :, 4] - 3.0,
            maps[:, :, 5:],
            spacing,
            None,
        )


def mean_log_depth(
    logits_BVTJ: Tensor, log_depths_BVJ: Tensor, rows: int, size: tuple[int, int]
) -> Tensor:
    """The mean log depth of every patch, `rows` of them, interpolated to maps [B, V, *size]."""
    patches = (logits_BVTJ.softmax(-1) * log_depths_BVJ[:, :, None]).sum(-1)
    return functional.interpolate(patches.unflatten(2, (rows, -1)), size=size, mode="bilinear")


class Refinement(nn.Module):
    """Copies texture: source pixels warped by the predicted depth, and a network that mixes them.

    Around each pixel's predicted depth, colours are taken from every source at a few offsets, in
    steps of the sweep. A small convolutional network sees how they differ from the direct
    prediction and returns mixing weights over all of them and the direct colour, a residual, and
    the expected error. Candidates start out the likelier the better the sources agree on them. The
    weights on the offsets also sharpen the depth.
    """

    offsets: Tensor

    def __init__(self, config: BankConfig) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.tensor(config.refine_offsets), persistent=False)
        self.sources = config.sources
        self.candidates = config.sources * len(config.refine_offsets)
        width = config.refine_channels
        self.entry = nn.Conv2d(4 * self.candidates + 3 + FEATURES, width, 1)
        finer = config.fine_returned if config.fine_offsets else 0
        self.finer = nn.Conv2d(finer, width, 1, bias=False) if finer else None
        self.near = nn.Conv2d(width, width, 3, padding=1)
        self.wide = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.exit = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, self.candidates + 1 + 3 + 1, 1)
        self.agreement = nn.Parameter(torch.tensor(3.5))  # log weight of squared disagreement

    def forward(
        self,
        decoded: Decoded,
        cameras: Cameras,
        pictures_BK3HW: Tensor,
        sources: Cameras,
        index_BVS: Tensor,
        valid_BVS: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns rgb [B, V, 3, H, W], log depth and log scale [B, V, H, W]."""
        with torch.autocast(pictures_BK3HW.device.type, enabled=False):
            offsets = decoded.spacing[..., None] * self.offsets.to(decoded.spacing)
            colours, inside = self._copy(
                decoded.log_depth, offsets, cameras, pictures_BK3HW, sources, index_BVS, valid_BVS
            )
            difference = (colours - decoded.rgb[:, :, None]) * inside[:, :, :, None]
            parts = [difference.flatten(2, 3), inside, 2 * decoded.rgb - 1, decoded.features]
            packed = torch.cat([part.flatten(0, 1) for part in parts], 1)
            # channels innermost: convolutions run three times as fast on a CPU
            packed = packed.contiguous(memory_format=torch.channels_last)
        x = self.entry(packed.to(self.entry.weight.dtype))
        if self.finer is not None and decoded.fine is not None:
            x = x + self.finer(decoded.fine.flatten(0, 1).to(self.finer.weight.dtype))
        x = functional.gelu(x)
        x = x + functional.gelu(self.near(x))
        x = x + functional.gelu(self.wide(x))
        x = x + functional.gelu(self.exit(x))
        mixed = self.mix(x).contiguous().unflatten(0, decoded.rgb.shape[:2])
        mixed = mixed if mixed.dtype == torch.float64 else mixed.float()
        return self._blend(mixed, decoded, colours, inside, offsets)

    def _blend(
        self, mixed: Tensor, decoded: Decoded, colours: Tensor, inside: Tensor, offsets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, direct, residual, scale = mixed.split([self.candidates, 1, 3, 1], dim=2)
        logits = logits - self.agreement.exp() * self._disagreement(colours, inside)
        logits = logits.masked_fill(inside == 0, -1e4)
        share = torch.softmax(torch.cat([logits, direct], 2), dim=2)
        copied, own = share[:, :, :-1], share[:, :, -1:]
        rgb = (copied[:, :, :, None] * colours).sum(2) + own * decoded.rgb + residual
        offset = offsets.repeat_interleave(self.candidates // len(self.offsets), dim=-1)
        shift = (copied * offset.to(copied)[..., None, None]).sum(2) / (copied.sum(2) + 1e-3)
        return rgb, decoded.log_depth + shift, decoded.log_scale + scale[:, :, 0]

    def _disagreement(self, colours: Tensor, inside: Tensor) -> Tensor:
        """Squared distance of every candidate to its offset's mean colour, plus the offset's
        variance: [B, V, J S, H, W]."""
        by_offset = (len(self.offsets), -1)
        colours, seen = colours.unflatten(2, by_offset), inside.unflatten(2, by_offset)
        weight = (seen / seen.sum(3, keepdim=True).clamp_min(1))[..., None, :, :]
        mean = (colours * weight).sum(3, keepdim=True)
        apart = (colours - mean).square().sum(4)
        variance = (apart * weight[:, :, :, :, 0]).sum(3, keepdim=True)
        return (apart + variance).flatten(2, 3)

    def _copy(
        self,
        log_depth: Tensor,
        offsets: Tensor,
        cameras: Cameras,
        pictures: Tensor,
        sources: Cameras,
        index: Tensor,
        valid: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Candidate colours [B, V, J S, 3, H, W] (offset-major) and validity [B, V, J S, H, W]."""
        height, width = log_depth.shape[-2:]
        depth = (log_depth.flatten(2)[:, :, None] + offsets[..., None]).exp()
        samples, inside = sample_along_rays(cameras, 1, depth.mT, pictures, sources, index, valid)
        b, v = log_depth.shape[:2]
        colours = samples.permute(0, 1, 5, 2, 3, 4).reshape(b, v, -1, 3, height, width)
        seen = inside.permute(0, 1, 4, 2, 3).reshape(b, v, -1, height, width)
        return colours, seen.to(colours.dtype)
