"""The fine sweep: what the nearest frames say at every second pixel, around the tokens' depth.

A patch is read by one token, so an outline inside it has to be a linear function of that token; and
one of the sweep's steps moves a point by several pixels of another view. Here every block of 2 x 2
pixels looks along its own ray, at offsets that are close together around the predicted depth and
reach far enough that some frame sees past an outline. How much pairs of the nearest frames agree
there goes through a small U-Net, whose deepest level has the tokens' grid and reads them. It
returns a depth, a colour, and features for the copy.

Which frames matters more than how many: of the 6 that are compared for the tokens' depth most don't
see what a pixel of an object shows, and outside rooms neither the distance to their mean nor the
mean over their 15 pairs lowers the error of depth by over 2 %. The pairs of the three nearest lower
it by up to 11 %, before anything is trained: the campaign log, entry 14.

(Coarse to fine, as in cascades of cost volumes, Gu et al., arXiv 1912.06378, with offsets instead
of a second volume; evidence that is blended at pixels, as in IBRNet, arXiv 2102.13090.)

Shapes: B scenes, V views, K frames, S sources, J offsets, C channels, P = h w blocks, h = H / 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.datasets.cameras import Cameras
from everview.models.config import BankConfig
from everview.models.heads import FEATURES, Decoded
from everview.models.sweep import Sources
from everview.models.warping import sample_along_rays

STRIDE = 2
SOURCES = 4
"""nearest frames that are compared"""
_PAIRS = (0, 1), (0, 2), (1, 2), (0, 3)
_BELIEVED = 3  # of these pairs, those of the three nearest frames make the first opinion
_STATISTICS = 3 + 2 * len(_PAIRS) + SOURCES
_PRIOR = 0.7  # how much less likely an offset is at first, for every step away from the middle
# log weights of squared distances in colour and in features, and of the first opinion; learned in
# tens, as Adam moves every number by its rate and in 6,400 steps these had not arrived
_WEIGHTS, _UNIT = (3.0, 0.7, 1.2), 10.0


class FineFeatures(nn.Module):
    """Matching features, seen sharper, and mean colour of frames at half of the resolution."""

    def __init__(self, channels: int, matched: int) -> None:
        """matched: channels of the matching features."""
        super().__init__()
        # an even kernel keeps a halved map centred on its pixels, where it will be sampled
        self.enter = nn.Conv2d(3, 16, 4, stride=STRIDE, padding=1)
        self.leave = nn.Conv2d(16, channels, 3, padding=1)
        self.matched = nn.Conv2d(matched, channels, 1, bias=False)

    def reset(self) -> None:
        """Distances of matching features are kept by a random projection; nothing is added."""
        nn.init.normal_(self.matched.weight, std=self.matched.out_channels**-0.5)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, pictures_BK3HW: Tensor, maps_BKChw: Tensor) -> Tensor:
        """Pictures [B, K, 3, H, W] in [0, 1] and their matching features and colours
        [B, K, C' + 3, H/4, W/4] to [B, K, C + 3, H/2, W/2], float32 or wider."""
        b, k = pictures_BK3HW.shape[:2]
        wide = torch.promote_types(self.enter.weight.dtype, torch.float32)
        flat = pictures_BK3HW.flatten(0, 1).to(wide)
        packed = (flat * 2 - 1).contiguous(memory_format=torch.channels_last)
        local = self.leave(functional.gelu(self.enter(packed)))
        coarse = self.matched(maps_BKChw.flatten(0, 1)[:, :-3]).to(wide)
        coarse = functional.interpolate(coarse, size=local.shape[-2:], mode="bilinear")
        colour = functional.avg_pool2d(flat, STRIDE)
        both = torch.cat([coarse + local.to(wide).contiguous(), colour], 1)
        return both.unflatten(0, (b, k))


class _Residual(nn.Module):
    """x + conv(gelu(conv(gelu(x)))), 3 x 3 each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.gelu(self.first(functional.gelu(x))))


class _UNet(nn.Module):
    """Three levels: of blocks, of 2 x 2 and of 4 x 4 of them; tokens join the deepest."""

    def __init__(self, given: int, width: int, dim: int, returned: int) -> None:
        super().__init__()
        middle, deep = width * 3 // 2, width * 2
        self.entry = nn.Conv2d(given, width, 1)
        self.fine_down = _Residual(width)
        self.halve = nn.Conv2d(width, middle, 4, stride=2, padding=1)
        self.middle_down = _Residual(middle)
        self.quarter = nn.Conv2d(middle, deep, 4, stride=2, padding=1)
        self.tokens = nn.Linear(dim, deep)
        self.deepest = nn.Sequential(_Residual(deep), _Residual(deep))
        self.to_middle = nn.Conv2d(deep, middle, 1)
        self.middle_up = _Residual(middle)
        self.to_fine = nn.Conv2d(middle, width, 1)
        self.fine_up = _Residual(width)
        self.exit = nn.Conv2d(width, returned, 1)

    def forward(self, x: Tensor, tokens_NTC: Tensor, columns: int) -> Tensor:
        fine = self.fine_down(self.entry(x))
        middle = self.middle_down(self.halve(fine))
        deep = self.quarter(middle)
        read = self.tokens(tokens_NTC).mT.unflatten(2, (-1, columns))
        if read.shape[-2:] != deep.shape[-2:]:  # another patch than four blocks
            read = functional.interpolate(read, size=deep.shape[-2:], mode="bilinear")
        deep = self.deepest(deep + read.to(deep.dtype))
        middle = self.middle_up(middle + _doubled(self.to_middle(deep)))
        fine = self.fine_up(fine + _doubled(self.to_fine(middle)))
        return self.exit(functional.gelu(fine))


class FineSweep(nn.Module):
    """Depth, colour and features at pixels, from what frames agree on along each block's ray.

    Until trained it moves depths to where pairs of the nearest frames agree, and no more.
    """

    offsets: Tensor

    def __init__(self, config: BankConfig, dim: int) -> None:
        super().__init__()
        offsets = torch.tensor(config.fine_offsets)
        self.register_buffer("offsets", offsets, persistent=False)
        self.features = FineFeatures(config.fine_features, config.features)
        given = _STATISTICS * len(offsets) + 3 + FEATURES
        returned = len(offsets) + 3 + config.fine_returned
        self.network = _UNet(given, config.fine_channels, dim, returned)
        self.weights = nn.Parameter(torch.tensor(_WEIGHTS) / _UNIT)

    def reset(self) -> None:
        """The network says nothing but that small offsets are likelier."""
        self.features.reset()
        nn.init.zeros_(self.network.exit.weight)
        with torch.no_grad():
            self.network.exit.bias.zero_()
            self.network.exit.bias[: len(self.offsets)] = -_PRIOR * self.offsets.abs()

    def forward(
        self,
        decoded: Decoded,
        tokens_BVTC: Tensor,
        columns: int,
        cameras: Cameras,
        maps_BKCHW: Tensor,
        sources: Sources,
    ) -> Decoded:
        """decoded, tokens (normalised, `columns` in a row): of cameras [B, V] in the gauge; maps:
        `FineFeatures` of the whole bank. Returns decoded with finer colour and depth, and features
        in `fine`."""
        lead = decoded.log_depth.shape[:2]
        with torch.autocast(maps_BKCHW.device.type, enabled=False):
            evidence, opinion = self._evidence(decoded, cameras, maps_BKCHW, sources)
            tokens_say = torch.cat([2 * decoded.rgb - 1, decoded.features], 2).flatten(0, 1)
            packed = torch.cat([evidence, functional.avg_pool2d(tokens_say, STRIDE)], 1)
            packed = packed.contiguous(memory_format=torch.channels_last)
        kind = self.network.entry.weight.dtype
        out = self.network(packed.to(kind), tokens_BVTC.flatten(0, 1).to(kind), columns)
        out = out.contiguous()
        out = out if out.dtype == torch.float64 else out.float()
        count = len(self.offsets)
        logits, rest = out[:, :count] + opinion.to(out), out[:, count:]
        offsets = self.offsets.to(out)[:, None, None]
        shift = (logits.softmax(1) * offsets).sum(1, keepdim=True)
        full = functional.interpolate(
            torch.cat([shift, rest], 1), scale_factor=STRIDE, mode="bilinear"
        ).unflatten(0, lead)
        # not `_replace`: compiled by torch 2.11 it leaves fields out
        return Decoded(
            decoded.rgb + full[:, :, 1:4],
            decoded.log_depth + full[:, :, 0] * decoded.spacing[..., None, None],
            decoded.log_scale,
            decoded.features,
            decoded.spacing,
            full[:, :, 4:],
        )

    def _evidence(
        self, decoded: Decoded, cameras: Cameras, maps: Tensor, sources: Sources
    ) -> tuple[Tensor, Tensor]:
        """[B V, statistics * J, h, w]: of every block and offset the mean colour, how far pairs
        lie apart (colour, features; bounded, 1 where one of the two sees nothing), and who sees it;
        and the first opinion of offsets, logits [B V, J, h, w]."""
        near = sources.nearest(SOURCES)
        # where to look is the tokens' answer; what is seen there doesn't teach them where
        middle = functional.avg_pool2d(decoded.log_depth.detach(), STRIDE)
        rows, columns = middle.shape[-2:]
        depth = middle.flatten(2)[..., None]
        depth = (depth + decoded.spacing[..., None, None] * self.offsets.to(depth)).exp()
        samples, inside = sample_along_rays(
            cameras, STRIDE, depth, maps, near.cameras, near.frame_index, near.valid
        )
        samples, seen = samples.mT, inside.mT.to(samples.dtype)
        weight = seen / seen.sum(2, keepdim=True).clamp_min(1)
        mean = (samples[:, :, :, -3:] * weight[:, :, :, None]).sum(2)
        a, b, trust = (_UNIT * self.weights).exp().to(samples.dtype)
        apart: list[Tensor] = []
        doubts: list[Tensor] = []
        for one, other in _PAIRS:
            if other >= seen.shape[2]:
                apart += [torch.ones_like(seen[:, :, 0])] * 2
                continue
            both = seen[:, :, one] * seen[:, :, other]
            squared = (samples[:, :, one] - samples[:, :, other]).square()
            colour, feature = a * squared[:, :, -3:].sum(2), b * squared[:, :, :-3].sum(2)
            apart += [1 - both / (1 + colour), 1 - both / (1 + feature)]
            if len(doubts) < _BELIEVED:
                doubts.append(1 - both / (1 + colour + feature))
        if len(doubts) == 0:  # a single frame has no opinion
            doubts = [torch.zeros_like(seen[:, :, 0])]
        missing = [torch.zeros_like(seen[:, :, 0])] * (SOURCES - seen.shape[2])
        rest = torch.stack([*apart, *seen.unbind(2), *missing], 2)
        evidence = torch.cat([2 * mean - 1, rest], 2).flatten(2, 3)
        doubt = torch.stack(doubts).mean(0).flatten(0, 1).unflatten(2, (rows, columns))
        around = functional.avg_pool2d(doubt, 3, stride=1, padding=1, count_include_pad=False)
        return evidence.flatten(0, 1).unflatten(2, (rows, columns)), -trust * around


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
