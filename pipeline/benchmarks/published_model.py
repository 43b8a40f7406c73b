"""The published LaCT novel-view model around the published memory, as the benchmarks' baseline.

LaCT, arXiv 2505.23884, section 4 and its released configuration: twelve input channels (rays,
moments, colour), blocks of per-image attention, memory and feed-forward, LayerNorm and linears
without bias, RMS norm on attention's queries and keys, no positional code. Inputs write and read;
target views are read-only tokens. One linear makes queries, keys and values of every token, those
of targets too, as released.

Shapes: B scenes, V views, T tokens of a view, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from everview.kernels.published import (
    PublishedWeights,
    published_apply,
    published_prologue,
    published_update,
)

_BASE_RATE = 0.01


class PublishedAttention(nn.Module):
    """Attention inside each image."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.heads = dim // head_dim
        self.norm = nn.LayerNorm(dim, bias=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.query_norm = nn.RMSNorm(head_dim, eps=1e-5)
        self.key_norm = nn.RMSNorm(head_dim, eps=1e-5)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BVTC: Tensor) -> Tensor:
        """Tokens in, residual branch out."""
        b, v, t, c = x_BVTC.shape
        qkv = self.qkv(self.norm(x_BVTC)).view(b * v, t, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            self.query_norm(query), self.key_norm(key), value
        )
        return self.out(mixed.transpose(1, 2).reshape(b, v, t, c))


class PublishedMemory(nn.Module):
    """One-headed fast weights over the tokens of all views."""

    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        hidden = dim * expansion
        self.norm = nn.LayerNorm(dim, bias=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.rates = nn.Linear(dim, 3)
        self.w0 = nn.Parameter(torch.randn(1, dim, hidden) * math.sqrt(2 / dim))
        self.w1 = nn.Parameter(torch.randn(1, hidden, dim) * math.sqrt(2 / hidden))
        self.w2 = nn.Parameter(torch.randn(1, dim, hidden) * math.sqrt(2 / dim))
        self.read_norm = nn.RMSNorm(dim, eps=1e-5)
        self.out = nn.Linear(dim, dim, bias=False)

    def initial(self, batch: int) -> PublishedWeights:
        """The learned initial weights of `batch` scenes."""
        return PublishedWeights(*(w.repeat(batch, 1, 1) for w in (self.w0, self.w1, self.w2)))

    def forward(
        self, x_BVTC: Tensor, weights: PublishedWeights, writes: bool
    ) -> tuple[Tensor, PublishedWeights]:
        """Residual branch and weights; with `writes` the chunk is written before it is read."""
        x = self.norm(x_BVTC).flatten(1, 2)
        query, key, value = published_prologue(self.qkv(x))
        if writes:
            rates = functional.softplus(self.rates(x) + math.log(math.expm1(_BASE_RATE)))
            weights = published_update(weights, key, value, rates)
        read = self.out(self.read_norm(published_apply(weights, query)))
        return read.view(x_BVTC.shape), weights


class PublishedFeedForward(nn.Module):
    """Two linears with GELU between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, bias=False)
        self.expand = nn.Linear(dim, 4 * dim, bias=False)
        self.contract = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x_BVTC: Tensor) -> Tensor:
        """Tokens in, residual branch out."""
        return self.contract(functional.gelu(self.expand(self.norm(x_BVTC))))


def published_block(
    attention: PublishedAttention,
    memory: PublishedMemory,
    feed_forward: PublishedFeedForward,
    x_BVTC: Tensor,
    weights: PublishedWeights,
    writes: bool,
) -> tuple[Tensor, PublishedWeights]:
    """One residual block: tokens and the weights it leaves."""
    x_BVTC = x_BVTC + attention(x_BVTC)
    read, weights = memory(x_BVTC, weights, writes)
    x_BVTC = x_BVTC + read
    return x_BVTC + feed_forward(x_BVTC), weights


class PublishedModel(nn.Module):
    """`reconstruct` writes the weights of every block from posed images; `render` only reads.

    checkpoints: in training, keep each block's inputs alone and compute it again for its gradient.
    """

    def __init__(
        self,
        blocks: int,
        dim: int,
        head_dim: int = 64,
        expansion: int = 2,
        patch: int = 8,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.checkpoints = False
        self._block: Any = published_block
        self.embed = nn.Linear(12 * patch**2, dim, bias=False)
        self.embed_norm = nn.LayerNorm(dim, bias=False)
        self.attention = nn.ModuleList(PublishedAttention(dim, head_dim) for _ in range(blocks))
        self.memory: Any = nn.ModuleList(PublishedMemory(dim, expansion) for _ in range(blocks))
        self.feed_forward = nn.ModuleList(PublishedFeedForward(dim) for _ in range(blocks))
        self.head_norm = nn.LayerNorm(dim, bias=False)
        self.head = nn.Linear(dim, 3 * patch**2, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                std = 0.02 / math.sqrt(3 * blocks) if "out" in name or "contract" in name else 0.02
                nn.init.normal_(parameter, std=std)

    def compile_blocks(self, **options: Any) -> None:
        """torch.compile a block; all share its graphs."""
        from torch._dynamo import config

        config.recompile_limit = max(config.recompile_limit, 64)
        self._block = torch.compile(published_block, **options)

    def reconstruct(self, rays_BV9HW: Tensor, images_BV3HW: Tensor) -> list[PublishedWeights]:
        """Every block's weights after the inputs. Rays: origin, direction, moment; images in
        [0, 1]."""
        maps = torch.cat([rays_BV9HW, images_BV3HW * 2 - 1], dim=2)
        weights = [memory.initial(len(maps)) for memory in self.memory]
        return self._blocks(self._tokens(maps), weights, writes=True)[1]

    def render(self, rays_BV9HW: Tensor, weights: list[PublishedWeights]) -> Tensor:
        """Pictures [B, V, 3, H, W] of target rays; the colour channels are zero."""
        height, width = rays_BV9HW.shape[-2:]
        maps = functional.pad(rays_BV9HW, (0, 0, 0, 0, 0, 3))
        x, _ = self._blocks(self._tokens(maps), weights, writes=False)
        pixels = torch.sigmoid(self.head(self.head_norm(x)))
        b, v, p = *pixels.shape[:2], self.patch
        grid = pixels.view(b, v, height // p, width // p, 3, p, p)
        return grid.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, v, 3, height, width)

    def _tokens(self, maps_BV12HW: Tensor) -> Tensor:
        b, v, c, h, w = maps_BV12HW.shape
        p = self.patch
        grid = maps_BV12HW.view(b, v, c, h // p, p, w // p, p).permute(0, 1, 3, 5, 2, 4, 6)
        return self.embed_norm(self.embed(grid.reshape(b, v, -1, c * p * p)))

    def _blocks(
        self, x: Tensor, weights: list[PublishedWeights], writes: bool
    ) -> tuple[Tensor, list[PublishedWeights]]:
        after = []
        for *layers, before in zip(
            self.attention, self.memory, self.feed_forward, weights, strict=True
        ):
            if self.checkpoints:
                x, left = checkpoint(self._block, *layers, x, before, writes, use_reentrant=False)
            else:
                x, left = self._block(*layers, x, before, writes)
            after.append(left)
        return x, after
