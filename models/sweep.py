"""Plane sweep: what the bank's frames say about depth at every patch of a query.

For each patch centre, `hypotheses` depths are tried: the sources' matching features are sampled
where that point would land, and their variance over the sources, their mean colour and how many see
it become part of the query's token. Attention inside the image then decides. (MVSNet's variance
cost, Yao et al. 2018, as an input to a transformer instead of a cost volume network.)

Depths are tried where most sources look (`shared_range`). Over the full range one step is
15 %, which between views 45 degrees apart is 14 pixels of 128; what cameras around an object share
is a quarter of it, in logarithms, and walks keep nearly all.

Shapes: B scenes, V views, K frames, S sources, T patches, J depths, C channels, G groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.datasets.cameras import Cameras
from everview.models.config import SHARED_BY, BankConfig
from everview.models.pair_agreement import PairAgreement, smoothed
from everview.models.warping import (
    pixel_grid,
    point_rays,
    project_into_sources,
    sample_along_rays,
)

_STRIDE = 4
_RANGE_RAYS, _RANGE_DEPTHS = 8, 64
_AROUND_UNIT = 1.5


class Sources(NamedTuple):
    """The frames that each of V views is compared with, or copies from: cameras [B, V, S], index
    into the bank and validity [B, V, S]; the logarithms of the depths tried [B, V, J], evenly
    spaced, and the logits that the sources give them [B, V, T, J]."""

    cameras: Cameras
    frame_index: Tensor
    valid: Tensor
    log_depths: Tensor
    opinion: Tensor

    def nearest(self, count: int) -> Sources:
        """The first `count` of the frames, with what all of them say about depth."""
        # not `_replace`: compiled by torch 2.11 it leaves fields out
        return Sources(
            self.cameras[:, :, :count],
            self.frame_index[:, :, :count],
            self.valid[:, :, :count],
            self.log_depths,
            self.opinion,
        )


class MatchingFeatures(nn.Module):
    """Unit-length features and mean colour of frames at a quarter of the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            # an even kernel keeps a halved map centred on its pixels, where it will be sampled
            nn.Conv2d(3, channels, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * channels, channels, 3, padding=1),
        )

    def forward(self, pictures_BK3HW: Tensor) -> Tensor:
        """[B, K, 3, H, W] in [0, 1] to [B, K, C + 3, H/4, W/4], float32 or wider."""
        b, k = pictures_BK3HW.shape[:2]
        wide = torch.promote_types(_dtype_of(self.layers), torch.float32)
        flat = pictures_BK3HW.flatten(0, 1).to(wide)
        # channels innermost, as in the refinement: faster on a CPU
        packed = (flat * 2 - 1).contiguous(memory_format=torch.channels_last)
        features = functional.normalize(self.layers(packed).to(wide).contiguous(), dim=1)
        colour = functional.avg_pool2d(flat, _STRIDE)
        return torch.cat([features, colour], 1).unflatten(0, (b, k))


class PlaneSweep(nn.Module):
    """Evidence about depth, as an addition to a query's tokens and as a first opinion.

    The opinion is classical: a depth is likely where the sources agree, in colour and in features,
    so that geometry doesn't have to be learned from nothing. How much each kind of agreement counts
    is learned.
    """

    steps: Tensor

    def __init__(self, config: BankConfig, dim: int, patch: int) -> None:
        super().__init__()
        self.patch, self.groups, self.channels = patch, config.groups, config.features
        self.near, self.far = config.near, config.far
        self.far_shared_by = config.far_shared_by
        self.register_buffer("steps", torch.linspace(0, 1, config.hypotheses), persistent=False)
        self.features = MatchingFeatures(config.features)
        width = config.hypotheses * (config.groups + 5) + 2
        self.read = nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim, bias=False))
        self.absent = nn.Parameter(torch.zeros(dim))
        # log weights of colour variance, feature variance, and of being seen by fewer than two
        self.doubts = nn.Parameter(torch.tensor([5.0, 1.5, 0.7]))
        powers = config.pair_powers
        self.pairs = PairAgreement(powers, config.hypotheses, dim) if powers else None

    def forward(
        self,
        cameras: Cameras,
        maps: Tensor,
        sources: Cameras,
        index_BVS: Tensor,
        valid_BVS: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """cameras [B, V] and sources [B, V, S] in the gauge; maps: MatchingFeatures of the whole
        bank [B, K, C + 3, h, w]; index, valid: each view's sources. Returns an addition to tokens
        [B, V, T, dim], the logarithms of the depths tried [B, V, J], and logits over them
        [B, V, T, J]."""
        with torch.autocast(maps.device.type, enabled=False):
            ends = self.near, self.far, self.far_shared_by
            bounds = shared_range(cameras, sources, valid_BVS, *ends).log()
            log_depths = torch.lerp(bounds[..., :1], bounds[..., 1:], self.steps.to(bounds))
            depth = log_depths.exp()[:, :, None]
            samples, inside = sample_along_rays(
                cameras, self.patch, depth, maps, sources, index_BVS, valid_BVS
            )
            rows = cameras.height // self.patch
            apart = None if self.pairs is None else self.pairs(samples, inside, sources, rows)
            evidence, opinion = self._agreement(samples, inside, rows, apart)
            tried = bounds[:, :, None].expand(*evidence.shape[:3], 2).to(evidence)
            evidence = torch.cat([evidence, tried], -1)
        hidden = self.read[0](evidence.to(_dtype_of(self.read)))
        if self.pairs is not None and apart is not None:
            hidden = hidden + self.pairs.read(apart)
        return self.read[2](self.read[1](hidden)), log_depths, opinion

    def _agreement(
        self,
        samples_BVSCTJ: Tensor,
        inside_BVSTJ: Tensor,
        rows: int,
        apart_BVKTJ: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Per patch and depth: grouped feature variance, colour variance, mean colour, share of
        sources that see it, [B, V, T, J * (G + 5)]; and the first opinion [B, V, T, J]. apart: how
        much pairs of sources disagree (`PairAgreement`)."""
        seen = inside_BVSTJ[:, :, :, None].to(samples_BVSCTJ.dtype)
        count = seen.sum(2)
        weight = seen / count.clamp_min(1)[:, :, None]
        mean = (samples_BVSCTJ * weight).sum(2)
        variance = (samples_BVSCTJ.square() * weight).sum(2) - mean.square()
        grouped = variance[:, :, : self.channels].unflatten(2, (self.groups, -1)).sum(3)
        colour_variance = variance[:, :, self.channels :].sum(2, keepdim=True)
        share = count / samples_BVSCTJ.shape[2]
        parts = [8 * grouped, 8 * colour_variance, mean[:, :, self.channels :], share]
        evidence = torch.cat(parts, 2).permute(0, 1, 3, 4, 2).flatten(3)
        colour, feature, alone = self.doubts.exp().to(variance.dtype)
        doubt = colour * colour_variance + feature * grouped.sum(2, keepdim=True)
        doubt = torch.where(count > 1.5, doubt, alone * (2 - count)).squeeze(2)
        if self.pairs is not None and apart_BVKTJ is not None:
            doubt = doubt + self.pairs.doubt(apart_BVKTJ)
        return evidence, -smoothed(doubt, rows)


def shared_range(
    cameras: Cameras,
    sources: Cameras,
    valid_BVS: Tensor,
    near: float,
    far: float,
    far_shared_by: float = SHARED_BY,
) -> Tensor:
    """Nearest and farthest depth [B, V, 2] at which a view shows what most of its sources see.

    cameras [B, V], sources [B, V, S]. A point is shared if three quarters of the sources see it;
    the far end may ask for fewer, `far_shared_by`, but never lies nearer for that. Among 64 depths
    from near to far and an 8 x 8 grid of rays, those count at which at least half as many rays are
    shared as at the best. Both ends are then moved out by one step, and the gauge's unit, a typical
    depth, always lies between. A view that shares nothing gets (near, far).
    """
    stride = max(cameras.height, cameras.width) // _RANGE_RAYS
    pixels = pixel_grid(cameras.height, cameras.width, stride, valid_BVS.device)
    steps = torch.arange(_RANGE_DEPTHS, device=valid_BVS.device) / (_RANGE_DEPTHS - 1)
    tried = near * (far / near) ** steps
    rays = point_rays(cameras, pixels)
    _, inside = project_into_sources(cameras, rays, tried.to(rays).view(1, 1, 1, -1), sources)
    seen = (inside & valid_BVS[..., None, None]).sum(2)
    first, last = _shared_places(seen, valid_BVS, SHARED_BY)
    if far_shared_by != SHARED_BY:
        last = torch.maximum(last, _shared_places(seen, valid_BVS, far_shared_by)[1])
    ends = torch.stack([first - 1, last + 1], -1).clamp(0, _RANGE_DEPTHS - 1)
    first, last = tried.to(rays)[ends].unbind(-1)
    return torch.stack([first.clamp_max(1 / _AROUND_UNIT), last.clamp_min(_AROUND_UNIT)], -1)


def _shared_places(seen_BVPJ: Tensor, valid_BVS: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """First and last of the depths [B, V] at which enough rays are seen by `share` of the sources;
    seen: how many see each point."""
    enough = seen_BVPJ >= share * valid_BVS.sum(2)[..., None, None]
    shared = enough.float().mean(2)
    counts = (shared >= shared.amax(-1, keepdim=True) / 2) & (shared > 0)
    counts = counts | ~counts.any(-1, keepdim=True)
    places = torch.arange(_RANGE_DEPTHS, device=counts.device)
    first = torch.where(counts, places, _RANGE_DEPTHS).amin(-1)
    return first, torch.where(counts, places, -1).amax(-1)


def _dtype_of(layers: nn.Sequential) -> torch.dtype:
    first = layers[0].weight
    assert isinstance(first, Tensor)
    return first.dtype
