"""Layers without memory treat inputs and queries alike: one batch, one launch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def run_jointly(
    function: Callable[[Tensor], Tensor], inputs_BVTC: Tensor | None, queries_BVTC: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """`function` over the views of both, joined along the view axis and split again."""
    if queries_BVTC is None:
        return (None if inputs_BVTC is None else function(inputs_BVTC)), None
    if inputs_BVTC is None:
        return None, function(queries_BVTC)
    both = function(torch.cat([inputs_BVTC, queries_BVTC], dim=1))
    inputs, queries = both.split([inputs_BVTC.shape[1], queries_BVTC.shape[1]], dim=1)
    return inputs, queries
