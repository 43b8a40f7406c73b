"""Source pixels in a query's tokens, warped to where the plane sweep puts them.

The sweep tells a token what every depth looks like by one colour a patch. Here the token sees the
picture that its most likely depth makes: blocks of 2 x 2 pixels of the nearest frames, side by
side, so that what lies askew in them says how depth errs and where an outline runs, before the
stack answers. (Source pictures warped by known geometry as what a network is given: Free View
Synthesis, Riegler and Koltun, arXiv 2008.05511; here depth is the sweep's first opinion.)

Shapes: B scenes, V views, K frames, S sources, T patches, C channels, P blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.datasets.cameras import Cameras
from everview.models.config import BankConfig
from everview.models.fine_sweep import STRIDE
from everview.models.heads import mean_log_depth
from everview.models.rays import patchify
from everview.models.sweep import Sources
from everview.models.warping import sample_along_rays


class WarpedBlocks(nn.Module):
    """An addition to a query's tokens; until trained it adds nothing."""

    def __init__(self, config: BankConfig, dim: int, patch: int) -> None:
        super().__init__()
        self.count, self.blocks = config.warped, patch // STRIDE
        self.enter = nn.Linear(4 * self.count * self.blocks**2, dim)
        self.out = nn.Linear(dim, dim, bias=False)

    def reset(self) -> None:
        """Nothing is added."""
        nn.init.zeros_(self.out.weight)

    def forward(self, cameras: Cameras, maps_BKCHW: Tensor, sources: Sources) -> Tensor:
        """cameras [B, V] in the gauge; maps: `FineFeatures` of the whole bank, whose last three
        channels are colours; sources: what each view is compared with. Returns [B, V, T, dim]."""
        shown = self.pictures(cameras, maps_BKCHW, sources).flatten(2, 3)
        packed = patchify(shown, self.blocks).to(self.enter.weight.dtype)
        return self.out(functional.gelu(self.enter(packed)))

    def pictures(self, cameras: Cameras, maps_BKCHW: Tensor, sources: Sources) -> Tensor:
        """The nearest frames as these views would see them [B, V, S, 4, H/2, W/2]: colours in
        [-1, 1] and a one, or zeros where a frame doesn't reach."""
        near = sources.nearest(self.count)
        rows, columns = cameras.height // STRIDE, cameras.width // STRIDE
        with torch.autocast(maps_BKCHW.device.type, enabled=False):
            # what is seen doesn't teach the sweep where to look, as in the fine sweep
            likely, shape = near.opinion.detach(), (rows, columns)
            log_depth = mean_log_depth(likely, near.log_depths, rows // self.blocks, shape)
            points = log_depth.exp().flatten(2)[..., None]
            samples, inside = sample_along_rays(
                cameras,
                STRIDE,
                points,
                maps_BKCHW[:, :, -3:],
                near.cameras,
                near.frame_index,
                near.valid,
            )
            seen = inside[:, :, :, None, :, 0].to(samples.dtype)
            shown = torch.cat([(2 * samples[..., 0] - 1) * seen, seen], 3)
            return shown.unflatten(4, shape)
