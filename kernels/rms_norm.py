"""Root-mean-square normalisation in two passes over the data, where torch's CPU form takes six.

Shapes: D channels, the last axis.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def rms_normalise(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gain over the last axis; gain broadcasts against x [..., D].

    The mean is summed in float32 or wider, and so is the result's dtype.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.is_cuda and gain.ndim == 1:
        return functional.rms_norm(x.to(wide), gain.shape, gain.to(wide), eps)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
    return x * (norm.square() / x.shape[-1] + eps).rsqrt() * gain
