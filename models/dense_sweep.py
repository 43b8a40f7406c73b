"""The sweep once more, along the ray of nearly every pixel: where outlines and thin parts lie.

The plane sweep (models.sweep) looks along one ray a patch. That places a patch, but not the outline
that runs through it: on held-out scans the copy gained 0.4 dB from exact depth, and 2.4 dB from
knowing which pixels are background. Here the sources' colours are taken at the same depths along
every ray of a finer grid: their mean, their variance and how many see the point are the ray's
profile. It is read twice: a patch's profiles side by side, as more evidence for its token, and by a
small U-shaped network at the grid's resolution, which gives every pixel a distribution over the
depths. That begins with the patch's, and with what the sources agree on along the ray itself. (As
MVSNet's cost volume, Yao et al. 2018, at the grid's resolution; colours averaged over the depths.)

What is added to a model begins at zero: weights from before it give the same picture at first.

Shapes: B scenes, V views, S sources, T patches, J depths, h, w rows and columns of the grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.datasets.cameras import Cameras
from everview.models.config import BankConfig, DenseSweepConfig
from everview.models.heads import FEATURES, Decoded
from everview.models.warping import (
    gather_frames,
    pixel_grid,
    point_rays,
    project_into_sources,
    sample_sources,
)

_DEPTHS_AT_ONCE = 8  # of a profile: bounds the memory of samples that aren't averaged yet
_VARIANCE = 8.0  # scale of variances as inputs of a network


class Profile(NamedTuple):
    """What the sources show along the rays of a grid, J depths each: mean colour
    [B, V, J, 3, h, w], variance, summed over colours, and sources that see it [B, V, J, h, w]."""

    colour: Tensor
    variance: Tensor
    seen: Tensor

    def doubt(self, weights: Tensor) -> Tensor:
        """How little each depth is believed [B, V, J, h, w]: by variance, or for being seen by
        fewer than two. weights: logarithms of the two scales."""
        colour, alone = weights.exp().to(self.variance)
        return torch.where(self.seen > 1.5, colour * self.variance, alone * (2 - self.seen))


class DenseSweep(nn.Module):
    """Profiles, and what they add to a query's tokens."""

    def __init__(self, bank: BankConfig, dense: DenseSweepConfig, dim: int, patch: int) -> None:
        super().__init__()
        self.side, self.stride = patch // dense.stride, dense.stride
        width = 5 * bank.hypotheses * self.side**2
        self.read = nn.Sequential(nn.Linear(width, dim), nn.GELU())
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        cameras: Cameras,
        pictures_BK3HW: Tensor,
        sources: Cameras,
        index_BVS: Tensor,
        valid_BVS: Tensor,
        log_depths_BVJ: Tensor,
    ) -> tuple[Tensor, Profile]:
        """cameras [B, V] and sources [B, V, S] in the gauge; pictures of the whole bank. Returns an
        addition to tokens [B, V, T, dim], and the profiles."""
        with torch.autocast(pictures_BK3HW.device.type, enabled=False):
            profile = self._look(
                cameras, pictures_BK3HW, sources, index_BVS, valid_BVS, log_depths_BVJ
            )
            seen = profile.seen / index_BVS.shape[-1]
            parts = [_VARIANCE * profile.variance, seen, profile.colour.flatten(2, 3)]
            patches = self._by_patch(torch.cat(parts, 2))
        return self.out(self.read(patches.to(self.out.weight.dtype))), profile

    def _by_patch(self, maps_BVChw: Tensor) -> Tensor:
        """The rays of each patch side by side: [B, V, T, C side^2]."""
        cut = maps_BVChw.unflatten(-1, (-1, self.side)).unflatten(-3, (-1, self.side))
        return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)

    def _look(
        self,
        cameras: Cameras,
        pictures: Tensor,
        sources: Cameras,
        index: Tensor,
        valid: Tensor,
        log_depths: Tensor,
    ) -> Profile:
        rays = point_rays(
            cameras, pixel_grid(cameras.height, cameras.width, self.stride, pictures.device)
        )
        frames = gather_frames(pictures, index)
        grid = (cameras.height // self.stride, cameras.width // self.stride)
        colours, variances, counts = [], [], []
        for some in log_depths.exp().split(_DEPTHS_AT_ONCE, -1):
            coordinates, inside = project_into_sources(cameras, rays, some[:, :, None], sources)
            samples = sample_sources(frames, coordinates)
            weight = (inside & valid[..., None, None]).to(samples.dtype)[:, :, :, None]
            count = weight.sum(2)
            weight = weight / count.clamp_min(1)[:, :, None]
            mean = (samples * weight).sum(2)
            variance = ((samples - mean[:, :, None]).square() * weight).sum((2, 3))
            colours.append(mean.permute(0, 1, 4, 2, 3).unflatten(-1, grid))
            variances.append(variance.mT.unflatten(-1, grid))
            counts.append(count[:, :, 0].mT.unflatten(-1, grid))
        return Profile(torch.cat(colours, 2), torch.cat(variances, 2), torch.cat(counts, 2))


class ProfileReader(nn.Module):
    """What profiles change in what the tokens said: a pixel's depth and colour go part of the way
    to the means of a distribution over the depths of its ray."""

    def __init__(self, bank: BankConfig, dense: DenseSweepConfig, patch: int) -> None:
        super().__init__()
        self.patch, self.stride = patch, dense.stride
        self.depths, self.sources = bank.hypotheses, bank.compared
        width, inner = dense.channels, 2 * dense.channels
        self.entry = nn.Conv2d(6 * self.depths + 3, width, 1)
        self.near = nn.Conv2d(width, width, 3, padding=1)
        self.halve = nn.Conv2d(width, inner, 4, stride=2, padding=1)
        self.deep = nn.Conv2d(inner, inner, 3, padding=1)
        self.halve_again = nn.Conv2d(inner, inner, 4, stride=2, padding=1)
        self.deepest = nn.Conv2d(inner, inner, 3, padding=1)
        self.rise = nn.Conv2d(inner, inner, 3, padding=1)
        self.rise_again = nn.Conv2d(inner, width, 3, padding=1)
        self.exit = nn.Conv2d(width, self.depths + 2 + FEATURES, 1)
        # log weights of variance and of being seen by fewer than two. A pixel's colours tell less
        # than the plane sweep's features: with its weights depth was worse than the patches' alone
        self.doubts = nn.Parameter(torch.tensor([3.5, -0.5]))

    def forward(self, profile: Profile, decoded: Decoded) -> Decoded:
        """The tokens' answer with other log_depth, rgb and features."""
        lead, size = decoded.rgb.shape[:2], decoded.rgb.shape[-2:]
        with torch.autocast(decoded.rgb.device.type, enabled=False):
            prior = self._prior(profile, decoded.logits, size[0] // self.patch)
            direct = functional.avg_pool2d(decoded.rgb.flatten(0, 1), self.stride)
            parts = [
                prior.softmax(1),
                _VARIANCE * profile.variance.flatten(0, 1),
                profile.seen.flatten(0, 1) / self.sources,
                (profile.colour.flatten(0, 1) - direct[:, None]).flatten(1, 2),
                2 * direct - 1,
            ]
            packed = torch.cat(parts, 1).contiguous(memory_format=torch.channels_last)
        told = self._network(packed.to(self.entry.weight.dtype)).to(prior.dtype)
        with torch.autocast(decoded.rgb.device.type, enabled=False):
            more, rest = told.split([self.depths, told.shape[1] - self.depths], 1)
            share = (prior + more).softmax(1)
            places = decoded.log_depths.flatten(0, 1)[..., None, None].to(share)
            depth = (share * places).sum(1, keepdim=True)
            colour = (share[:, :, None] * profile.colour.flatten(0, 1)).sum(1)
            maps = torch.cat([depth, colour, rest], 1)
            maps = functional.interpolate(maps, size=size, mode="bilinear").unflatten(0, lead)
            depth, colour, gates, features = maps.split([1, 3, 2, FEATURES], 2)
            gates = torch.tanh(gates)
            return decoded._replace(
                log_depth=torch.lerp(decoded.log_depth, depth[:, :, 0], gates[:, :, 0]),
                rgb=torch.lerp(decoded.rgb, colour, gates[:, :, 1:]),
                features=decoded.features + features,
            )

    def _prior(self, profile: Profile, logits: Tensor, rows: int) -> Tensor:
        """Logits [B V, J, h, w]: the patches', interpolated, and the rays' own agreement."""
        patches = logits.flatten(0, 1).mT.unflatten(-1, (rows, -1))
        doubt = profile.doubt(self.doubts).flatten(0, 1)
        around = functional.avg_pool2d(doubt, 3, stride=1, padding=1, count_include_pad=False)
        grid = doubt.shape[-2:]
        smooth = functional.interpolate(patches, size=grid, mode="bilinear").to(doubt)
        return smooth - (doubt + around) / 2

    def _network(self, packed: Tensor) -> Tensor:
        x = functional.gelu(self.entry(packed))
        x = x + functional.gelu(self.near(x))
        y = functional.gelu(self.halve(x))
        y = y + functional.gelu(self.deep(y))
        z = functional.gelu(self.halve_again(y))
        z = z + functional.gelu(self.deepest(z))
        y = y + functional.gelu(self.rise(_doubled(z, y)))
        x = x + functional.gelu(self.rise_again(_doubled(y, x)))
        return self.exit(x).contiguous()


def _doubled(coarse: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(coarse, size=like.shape[-2:], mode="nearest")
