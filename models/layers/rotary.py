"""Rotary positions (RoFormer, arXiv 2104.09864): channel pairs turn, so that products of rotated
queries and keys depend on differences of positions alone."""

from __future__ import annotations

import torch
from torch import Tensor

_BASE = 100.0


def rates(count: int, device: torch.device) -> Tensor:
    """Angles per unit of position of `count` channel pairs, from 1 down towards 1/100."""
    return _BASE ** (-torch.arange(count, device=device, dtype=torch.float32) / count)


def table(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine [..., head_dim] of angles [..., head_dim / 2], for `rotate`."""
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate channel pairs (i, i + half) of x [..., head_dim]; the table broadcasts against x."""
    # whole rows times a table: halves of rows are too short for a processor's vector loops
    return x * cosine + x.roll(x.shape[-1] // 2, -1) * sine
