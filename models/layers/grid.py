"""The grid of tokens in a view, with what every layer would otherwise compute again from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from everview.models.config import WindowConfig
from everview.models.layers.rotary import rates, table
from everview.models.layers.window_grid import WindowGrid


class TokenGrid(NamedTuple):
    """Rows and columns of tokens in a view; the table of their rotary positions [T, head_dim]; the
    window's tables, for a stack that has one."""

    rows: int
    columns: int
    cosine: Tensor
    sine: Tensor
    window: WindowGrid | None = None

    @staticmethod
    def of(
        rows: int,
        columns: int,
        head_dim: int,
        device: torch.device,
        window: WindowConfig | None = None,
    ) -> TokenGrid:
        """head_dim: channels of an attention head."""
        places = rotary_table((rows, columns), head_dim, device)
        tables = None if window is None else WindowGrid.of(rows, columns, head_dim, device, window)
        return TokenGrid(rows, columns, *places, tables)


def rotary_table(
    grid: tuple[int, int], head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine [T, head_dim], float32, of a grid of patches, for `rotary.rotate`.

    Of each half of the channels the first half turns with the row, the second with the column.
    """
    rows, columns = grid
    turning = rates(head_dim // 4, device)
    row = torch.arange(rows, device=device, dtype=torch.float32).repeat_interleave(columns)
    column = torch.arange(columns, device=device, dtype=torch.float32).repeat(rows)
    return table(torch.cat([row[:, None] * turning, column[:, None] * turning], dim=-1))
