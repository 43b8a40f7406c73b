"""Values in 8 bits: each row as int8 with a scale, a float16 one in the files of weights.

    q = round(w / s),  s = max|row| / 127

Rows are along the last axis, and a kernel's along all that one output reads. Rounding to nearest
with a scale a row keeps the relative error of a Gaussian row near 1 %, far under what training
noise leaves; what it costs in dB is on each card.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST_MATRIX = 4096


def is_packed(name: str, tensor: Tensor) -> bool:
    """Whether a parameter is worth 8 bits: matrices and kernels, not vectors and small heads."""
    return tensor.ndim >= 2 and tensor.numel() >= _SMALLEST_MATRIX


def pack_rows(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values of the tensor's shape and float16 scales [..., 1], or [out, 1, 1, 1]."""
    wide = tensor.detach().float().cpu()
    row = (1, 2, 3) if wide.ndim == 4 else (-1,)  # a scale for 3 x 1 values would be 2 bytes of 5
    return round_rows(wide, row, torch.float16)


def round_rows(
    wide: Tensor, row: tuple[int, ...] = (-1,), scales: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """int8 values and a scale for each row, which runs along the axes `row`; the scale isn't finite
    where a value of its row isn't."""
    scale = (wide.abs().amax(row, keepdim=True) / 127).clamp_min(1e-7).to(scales)
    values = (wide / scale.float()).round().clamp(-127, 127).to(torch.int8)
    return values, scale


def unpack_rows(values: Tensor, scale: Tensor) -> Tensor:
    """float32 values from `pack_rows` or `round_rows`."""
    return values.float() * scale.float()


def is_stored_well(values: Tensor, scale: Tensor | None) -> bool:
    """Whether a file's tensor can be read: floats without a scale, or int8 with one for every row,
    whichever axes a row runs along."""
    if scale is None:
        return values.dtype in (torch.float32, torch.float16)
    if values.dtype != torch.int8 or scale.dtype != torch.float16 or scale.ndim != values.ndim:
        return False
    return all(s in (1, n) for s, n in zip(scale.shape, values.shape, strict=True))
