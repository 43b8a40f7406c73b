"""Where things are in a sliding window: cells of an image, and ages of frames.

Positions are in units of cells, from 0 to `cells` over the height and over the width of an image of
any size, and in frames of age, from 0 to the window's length. Whatever is streamed, at whatever
size and for however long, both stay in the range that training met.

Shapes: T tokens of a view, P cells of a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from everview.models.config import WindowConfig
from everview.models.layers.rotary import rates, table


class WindowGrid(NamedTuple):
    """pool: [P, T], each cell's weights of the tokens it covers. Tables of rotary positions for
    `rotary.rotate`, cosine and signed sine [..., head_dim]: of tokens [T], of cells [P], of ages
    [frames + 1]."""

    pool: Tensor
    tokens: tuple[Tensor, Tensor]
    cells: tuple[Tensor, Tensor]
    ages: tuple[Tensor, Tensor]

    @staticmethod
    def of(
        rows: int, columns: int, head_dim: int, device: torch.device, window: WindowConfig
    ) -> WindowGrid:
        """The tables of views of rows x columns tokens."""
        cells = window.cells
        sides = [_overlaps(count, cells, device) for count in (rows, columns)]
        pool = torch.einsum("ar,bc->abrc", *sides).reshape(cells * cells, rows * columns)
        tokens = _image_angles(rows, columns, cells, head_dim, device)
        centres = _image_angles(cells, cells, cells, head_dim, device)
        ages = _age_angles(window.frames + 1, head_dim, device)
        return WindowGrid(pool, table(tokens), table(centres), table(ages))


def _overlaps(count: int, cells: int, device: torch.device) -> Tensor:
    """[cells, count]: how much of each cell each of `count` equal pieces of a side covers."""
    cell = torch.arange(cells, device=device, dtype=torch.float32)[:, None] * count
    piece = torch.arange(count, device=device, dtype=torch.float32) * cells
    ends = torch.minimum(cell + count, piece + cells)
    return (ends - torch.maximum(cell, piece)).clamp_min(0) / count


def _split(head_dim: int) -> tuple[int, int]:
    """Channel pairs that turn with the row (as many with the column), and with the age."""
    pairs = head_dim // 2
    spatial = (pairs - pairs // 4) // 2
    return spatial, pairs - 2 * spatial


def _image_angles(
    rows: int, columns: int, cells: int, head_dim: int, device: torch.device
) -> Tensor:
    """[rows * columns, head_dim / 2] at the middles of patches, in cells."""
    spatial, temporal = _split(head_dim)
    turning = rates(spatial, device)
    row, column = (
        (torch.arange(count, device=device, dtype=torch.float32) + 0.5) * (cells / count)
        for count in (rows, columns)
    )
    row, column = row.repeat_interleave(columns), column.repeat(rows)
    still = torch.zeros(rows * columns, temporal, device=device)
    return torch.cat([row[:, None] * turning, column[:, None] * turning, still], dim=-1)


def _age_angles(count: int, head_dim: int, device: torch.device) -> Tensor:
    """[count, head_dim / 2] of ages 0, 1, ... seen from now."""
    spatial, temporal = _split(head_dim)
    age = torch.arange(count, device=device, dtype=torch.float32)[:, None]
    still = torch.zeros(count, 2 * spatial, device=device)
    return torch.cat([still, -age * rates(temporal, device)], dim=-1)
