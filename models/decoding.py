"""From a query's tokens to what it answers: heads, the fine sweep, the copy from the bank.

Shapes: B scenes, V views, T tokens of a view, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from everview.datasets.cameras import Cameras
from everview.models.fine_sweep import FineSweep
from everview.models.frame_bank import FrameBank
from everview.models.heads import Decoded, Refinement, TokenHead
from everview.models.queries import Outputs
from everview.models.sweep import Sources


class Pixels(NamedTuple):
    """What makes pixels of tokens: always a head; with a bank the copy, and the fine sweep where
    one is configured. A view that tokens saw reduced is enlarged: the fine sweep looks at both
    sizes, the copy at the larger."""

    head: TokenHead
    fine: FineSweep | None
    refine: Refinement | None

    def of(
        self,
        tokens_BVTC: Tensor,
        seen: Cameras,
        cameras: Cameras,
        frames: FrameBank | None,
        sources: Sources | None,
        levels: tuple[Tensor, ...],
        mask_BV: Tensor | None,
    ) -> Outputs:
        """The answer of tokens for cameras [B, V] in the gauge, seen as the views that tokens were
        made of (the same object where none was reduced). frames: of the bank; levels:
        `FineFeatures` of them as tokens see them, and as they are where that differs; sources:
        those that were compared. mask: views that may use them."""
        prior = () if sources is None else (sources.log_depths, sources.opinion)
        decoded: Decoded = self.head(tokens_BVTC, seen.height, seen.width, *prior)
        whole = decoded if seen is cameras else enlarged(decoded, cameras)
        shown = whole.rgb, whole.log_depth, whole.log_scale
        if self.refine is not None and frames is not None and sources is not None:
            finer = whole
            if self.fine is not None:
                finer = self._finer(decoded, tokens_BVTC, seen, cameras, levels, sources)
            copied = sources.nearest(self.refine.sources)[:3]
            found = self.refine(finer, cameras, frames.pictures(), *copied)
            shown = found if mask_BV is None else _where(mask_BV, found, shown)
        rgb, log_depth, log_scale = shown
        return Outputs(
            rgb=rgb,
            direct_rgb=whole.rgb,
            log_depth=log_depth,
            log_depth_direct=whole.log_depth,
            log_scale=log_scale,
        )

    def _finer(
        self,
        decoded: Decoded,
        tokens_BVTC: Tensor,
        seen: Cameras,
        cameras: Cameras,
        levels: tuple[Tensor, ...],
        sources: Sources,
    ) -> Decoded:
        """The fine sweep's answer; a reduced view is swept as it was seen, and again enlarged, in
        steps that are as many of its pixels."""
        assert self.fine is not None
        rest = self.head.norm(tokens_BVTC), seen.width // self.head.patch
        if seen is cameras:
            return self.fine(decoded, *rest, cameras, levels[0], sources)
        first = enlarged(self.fine(decoded, *rest, seen, levels[0], sources), cameras)
        shorter = first._replace(spacing=first.spacing * seen.height / cameras.height)
        found = self.fine(shorter, *rest, cameras, levels[-1], sources)
        return found._replace(spacing=decoded.spacing)


def enlarged(decoded: Decoded, cameras: Cameras) -> Decoded:
    """What tokens say of a reduced view, at the size of `cameras`; the fine sweep's features, which
    it makes anew, are left out."""

    single = decoded.log_depth[:, :, None], decoded.log_scale[:, :, None]
    maps = torch.cat([decoded.rgb, *single, decoded.features], 2)
    full = functional.interpolate(
        maps.flatten(0, 1), size=(cameras.height, cameras.width), mode="bilinear"
    ).unflatten(0, maps.shape[:2])
    parts = full[:, :, :3], full[:, :, 3], full[:, :, 4], full[:, :, 5:]
    return Decoded(*parts, decoded.spacing, None)


_Shown = tuple[Tensor, Tensor, Tensor]


def _where(mask_BV: Tensor, one: _Shown, other: _Shown) -> _Shown:
    """Colour, log depth and log scale of `one` where the mask is set, of `other` elsewhere."""
    keep = mask_BV[..., None, None]
    colour = torch.where(keep[..., None], one[0], other[0])
    return colour, torch.where(keep, one[1], other[1]), torch.where(keep, one[2], other[2])
