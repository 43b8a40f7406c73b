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
from everview.models.layers.grid import TokenGrid
from everview.models.layers.joint import run_jointly
from everview.models.layers.plan import Plan
from everview.models.layers.rotary import rotate


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

    def forward(self, x_BVTC: Tensor, grid: TokenGrid) -> Tensor:
        """Tokens in, tokens out."""
        b, v, t, c = x_BVTC.shape
        qkv = self.qkv(self.norm(x_BVTC)).view(b * v, t, 3, self.heads, self.head_dim)
        value = qkv[:, :, 2]
        gains = torch.stack([self.query_norm.weight, self.key_norm.weight])[:, None]
        normed = rms_normalise(qkv[:, :, :2], gains, self.query_norm.eps)
        table = (part.to(normed.dtype)[:, None, None] for part in (grid.cosine, grid.sine))
        query, key = rotate(normed, *table).to(value.dtype).unbind(2)
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
        grid: TokenGrid,
    ) -> tuple[Tensor | None, Tensor | None, tuple[()]]:
        """See Layer.run; inputs and queries go through in one batch."""
        return *run_jointly(lambda x: self.forward(x, grid), inputs_BVTC, queries_BVTC), ()
