"""What a bank says to query tokens before they go through the stack.

Shapes: B scenes, V views, T tokens of a view, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.bank_features import Made
from everview.models.config import ModelConfig
from everview.models.frame_bank import FrameBank, nearest_sources
from everview.models.sweep import PlaneSweep, Sources
from everview.models.warped_blocks import WarpedBlocks


class Evidence(NamedTuple):
    """What makes evidence: the sweep, in a model with a bank; with `BankConfig.warped` what the
    nearest frames show; and the depths that are meant where nothing is said, [J]."""

    config: ModelConfig
    sweep: PlaneSweep | None
    warped: WarpedBlocks | None
    log_depths: Tensor

    def added(
        self,
        tokens_BVTC: Tensor,
        cameras: Cameras,
        time_s: Tensor,
        frames: FrameBank | None,
        features: Made,
        mask_BV: Tensor | None,
    ) -> tuple[Tensor, Sources | None]:
        """Tokens [B, V, T, C] of queries plus evidence, and all sources compared for it. cameras
        and times [B, V]; features: of the frames, as `SceneModel` makes them. mask: views that may
        know the bank; the others, and all without frames, are told that nothing is said."""
        if self.sweep is None or self.config.bank is None:
            return tokens_BVTC, None
        absent = self.sweep.absent.to(tokens_BVTC.dtype)
        if frames is None or not features:
            return tokens_BVTC + absent, None
        index, valid = nearest_sources(cameras, time_s, frames, self.config.bank.compared)
        rows = torch.arange(index.shape[0], device=index.device)[:, None, None]
        sources = frames.cameras[rows, index]
        evidence, log_depths, opinion = self.sweep(cameras, features[0], sources, index, valid)
        found = Sources(sources, index, valid, log_depths, opinion)
        if self.warped is not None:
            evidence = evidence + self.warped(cameras, features[1 + self.config.cross_view], found)
        if mask_BV is not None:
            keep = mask_BV[..., None, None]
            evidence = torch.where(keep, evidence, absent.to(evidence.dtype))
            opinion = torch.where(keep, opinion, 0.0)
            log_depths = torch.where(mask_BV[..., None], log_depths, self.log_depths)
            found = found._replace(log_depths=log_depths, opinion=opinion)
        return tokens_BVTC + evidence, found
