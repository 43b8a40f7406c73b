"""From a query's tokens to what it answers: heads, the fine sweep, the copy from the bank.

Shapes: B scenes, V views, T tokens of a view, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.fine_sweep import FineSweep
from everview.models.frame_bank import FrameBank
from everview.models.heads import Decoded, Refinement, TokenHead
from everview.models.queries import Outputs
from everview.models.sweep import Sources


class Pixels(NamedTuple):
    """What makes pixels of tokens: always a head; with a bank the copy, and the fine sweep where
    one is configured."""

    head: TokenHead
    fine: FineSweep | None
    refine: Refinement | None

    def of(
        self,
        tokens_BVTC: Tensor,
        cameras: Cameras,
        frames: FrameBank | None,
        sources: Sources | None,
        features: tuple[Tensor, ...],
        mask_BV: Tensor | None,
    ) -> Outputs:
        """The answer of tokens for cameras [B, V] in the gauge. frames: of the bank, with their
        features; sources: those that were compared. mask: views that may use them."""
        prior = () if sources is None else (sources.log_depths, sources.opinion)
        decoded: Decoded = self.head(tokens_BVTC, cameras.height, cameras.width, *prior)
        shown = decoded.rgb, decoded.log_depth, decoded.log_scale
        if self.refine is not None and frames is not None and sources is not None:
            finer = decoded
            if self.fine is not None:
                normed = self.head.norm(tokens_BVTC)
                finer = self.fine(decoded, normed, cameras, features[-1], sources)
            copied = sources.nearest(self.refine.sources)[:3]
            found = self.refine(finer, cameras, frames.pictures(), *copied)
            shown = found if mask_BV is None else _where(mask_BV, found, shown)
        rgb, log_depth, log_scale = shown
        return Outputs(
            rgb=rgb,
            direct_rgb=decoded.rgb,
            log_depth=log_depth,
            log_depth_direct=decoded.log_depth,
            log_scale=log_scale,
        )


_Shown = tuple[Tensor, Tensor, Tensor]


def _where(mask_BV: Tensor, one: _Shown, other: _Shown) -> _Shown:
    """Colour, log depth and log scale of `one` where the mask is set, of `other` elsewhere."""
    keep = mask_BV[..., None, None]
    colour = torch.where(keep[..., None], one[0], other[0])
    return colour, torch.where(keep, one[1], other[1]), torch.where(keep, one[2], other[2])
