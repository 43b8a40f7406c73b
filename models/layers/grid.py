"""The grid of tokens in a view, with what every layer would otherwise compute again from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_ROTARY_BASE = 100.0


class TokenGrid(NamedTuple):
    """Rows and columns of tokens in a view; the table of their rotary positions [T, head_dim]."""

    rows: int
    columns: int
    cosine: Tensor
    sine: Tensor

    @staticmethod
    def of(rows: int, columns: int, head_dim: int, device: torch.device) -> TokenGrid:
        """head_dim: channels of an attention head."""
        return TokenGrid(rows, columns, *rotary_table((rows, columns), head_dim, device))


def rotary_table(
    grid: tuple[int, int], head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine [T, head_dim], float32, of a grid of patches, for `rotate`.

    Of each half of the channels the first half turns with the row, the second with the column.
    """
    rows, columns = grid
    quarter = head_dim // 4
    rates = _ROTARY_BASE ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)
    row = torch.arange(rows, device=device, dtype=torch.float32).repeat_interleave(columns)
    column = torch.arange(columns, device=device, dtype=torch.float32).repeat(rows)
    angles = torch.cat([row[:, None] * rates, column[:, None] * rates], dim=-1)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate channel pairs (i, i + half) of x [..., head_dim]; the table broadcasts against x."""
    # whole rows times a table: halves of rows are too short for a processor's vector loops
    return x * cosine + x.roll(x.shape[-1] // 2, -1) * sine
