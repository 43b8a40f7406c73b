"""Weights in 8 bits a value: each row of a matrix as int8 with a float16 scale.

    q = round(w / s),  s = max|row| / 127

Rows are along the last axis. Rounding to nearest with a scale a row keeps the relative error of a
Gaussian row near 1 %, far under what training noise leaves; what it costs in dB is on each card.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST_MATRIX = 4096


def is_packed(name: str, tensor: Tensor) -> bool:
    """Whether a parameter is worth 8 bits: matrices and kernels, not vectors and small heads."""
    return tensor.ndim >= 2 and tensor.numel() >= _SMALLEST_MATRIX


def pack_rows(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values of the tensor's shape and float16 scales [..., 1]."""
    wide = tensor.detach().float().cpu()
    scale = (wide.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-7).half()
    values = (wide / scale.float()).round().clamp(-127, 127).to(torch.int8)
    return values, scale


def unpack_rows(values: Tensor, scale: Tensor) -> Tensor:
    """float32 values from `pack_rows`."""
    return values.float() * scale.float()
