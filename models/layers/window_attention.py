"""The letter W: attention inside each image.

Tokens of one view see each other and no other view, so a query's picture doesn't depend on what
else was asked for, and the cost is linear in views. QK-norm (RMS) as in LaCT's NVS model; rotary
positions over rows and columns of patches (half the channels each), which LaCT leaves to the rays.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.kernels.rms_norm import rms_normalise
from everview.models.config import ModelConfig
from everview.models.layers.joint import run_jointly
from everview.models.layers.plan import Plan

_ROTARY_BASE = 100.0


def rotary_table(
    grid: tuple[int, int], head_dim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine [T, head_dim] of a grid of patches, for `rotate`.

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


class WindowAttention(nn.Module):
    """x + W_out attention(norm(x)) within each view, no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.attention_head_dim
        self.heads = config.dim // self.head_dim
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.query_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.key_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def init_state(self, batch: int) -> tuple[()]:
        """Nothing is remembered: the window is one image."""
        return ()

    def forward(self, x_BVTC: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens in, tokens out; grid: rows and columns of tokens in a view."""
        b, v, t, c = x_BVTC.shape
        qkv = self.qkv(self.norm(x_BVTC)).view(b * v, t, 3, self.heads, self.head_dim)
        value = qkv[:, :, 2]
        gains = torch.stack([self.query_norm.weight, self.key_norm.weight])[:, None]
        normed = rms_normalise(qkv[:, :, :2], gains, self.query_norm.eps)
        cosine, sine = (
            table.to(normed.dtype)[:, None, None]
            for table in rotary_table(grid, self.head_dim, x_BVTC.device)
        )
        query, key = rotate(normed, cosine, sine).to(value.dtype).unbind(2)
        mixed = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        return x_BVTC + self.out(mixed.transpose(1, 2).reshape(b, v, t, c))

    def run(
        self,
        inputs_BVTC: Tensor | None,
        queries_BVTC: Tensor | None,
        state: tuple[()],
        plan: Plan | None,
        steps_BU: Tensor | None,
        grid: tuple[int, int],
    ) -> tuple[Tensor | None, Tensor | None, tuple[()]]:
        """See Layer.run; inputs and queries go through in one batch."""
        return *run_jointly(lambda x: self.forward(x, grid), inputs_BVTC, queries_BVTC), ()
