"""Depth against true depth, with the alignment that was allowed named beside the number."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# metric: both in metres, nothing aligned. world: both in the unit of the capture's poses, nothing
# aligned. median: one factor per scene, the median of truth over prediction.
Alignment = Literal["metric", "world", "median"]


def alignment_of(scale: str, has_cameras: bool = True) -> Alignment:
    """How predicted depth may be aligned, from the capture's scale.

    Poses fix the unit of a posed capture, so its depth needs no alignment.
    """
    if scale == "metric":
        return "metric"
    return "world" if has_cameras else "median"


def depth_abs_rel(prediction: Tensor, truth: Tensor, alignment: Alignment) -> Tensor:
    """Mean |d - d*| / d* of each image over pixels of known truth, float64 [V].

    prediction, truth: z-depth [V, H, W]; truth is 0 (or not finite) where unknown. NaN for an
    image without known depth. "median" scales all images of the scene by one factor.
    """
    prediction, truth = prediction.double(), truth.double()
    known = truth.isfinite() & (truth > 0)
    if alignment == "median":
        usable = known & prediction.isfinite() & (prediction > 0)
        if usable.any():
            prediction = prediction * (truth[usable] / prediction[usable]).median()
    error = torch.where(known, (prediction - truth).abs() / truth.where(known, 1.0), 0.0)
    return error.flatten(1).sum(1) / known.flatten(1).sum(1)
