"""Weights before training."""

from __future__ import annotations

import math

from torch import nn

from everview.models.cross_view import CrossView
from everview.models.fine_sweep import FineSweep
from everview.models.heads import Refinement, TokenHead
from everview.models.warped_blocks import WarpedBlocks


def initialise(
    model: nn.Module,
    layers: nn.ModuleList,
    head: TokenHead,
    refine: Refinement | None,
) -> None:
    """N(0, 0.02) linears; projections that end a residual branch scaled by 1/sqrt(2 layers); depth
    and blending begin without an opinion."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in layers.named_parameters():
        if name.endswith(("out.weight", "contract.weight")):
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * len(layers)))
    nn.init.zeros_(head.depth.weight)
    if refine is not None:
        nn.init.zeros_(refine.mix.weight)
        nn.init.zeros_(refine.mix.bias)
        if refine.finer is not None:
            nn.init.zeros_(refine.finer.weight)
    for part in model.children():
        if isinstance(part, CrossView | FineSweep | WarpedBlocks):
            part.reset()
