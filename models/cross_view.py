"""Attention across views: a query's tokens look at patches of the frames it is compared with.

Only queries look, at a few places of the stack between blocks of layers. What a frame shows them is
made once a frame, from its pixels, its matching features and the rays in its own axes, so inputs,
fast weights and the memory's own answers know nothing of it. The last projection begins at zero:
weights that came before are answered with bit for bit.

Positions enter as PRoPE (arXiv 2507.10496) has them: half of a head's channels, in groups of four,
are points of projective space, the other half turns with the patch's row and column. PRoPE takes
queries by P_q^T, keys and values by P_k^-1 and what comes out by P_q; products are then functions
of P_q P_k^-1. Here keys and values are taken by that product at once, which is the same and keeps
far cameras apart in half precision: their difference is taken in float32 before anything else. And
moved keys get back the norm they had, so that a source ten units away can't saturate the softmax.

A query at 128 px has 256 tokens, 6 sources 1,536. At width 256 a layer's products are 0.40 GFLOP
of attention, 0.07 of projections and 0.03 where points are moved; three are 1.5 beside the 8.7 of a
query of 10 x WTF with its sweep and copy. A frame's keys and values are 0.07 GFLOP a layer and its
tokens 0.08, paid when it is stored.

Shapes: B scenes, V views, K frames of the bank, S sources, T tokens of a view, C channels, N heads,
D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.datasets.cameras import Cameras
from everview.kernels.rms_norm import rms_normalise
from everview.models.config import BankConfig, ModelConfig
from everview.models.layers.blocks import Between, block_length
from everview.models.layers.grid import rotary_table
from everview.models.layers.rotary import rotate
from everview.models.rays import patchify
from everview.models.sweep import Sources
from everview.models.warping import gather_frames, normalised_lens, pixel_grid

_MAP_STRIDE = 4  # pixels between two matching features


class Looks(NamedTuple):
    """What the tokens of V views look at: frames, the places [B, V, S] of their sources in the
    bank; what takes the projective points of a source's heads to where the view sees them,
    [B, V, S, D / 2, D / 2]; rays of the view's patches in its own axes [B, V, T, 3]; the rotary
    table of its patches [T, 1, D / 2]; views that may look [B, V]."""

    frames: Tensor
    moves: Tensor
    rays: Tensor
    cosine: Tensor
    sine: Tensor
    allowed: Tensor | None


Visit = Callable[["CrossViewAttention", Tensor, Tensor, Looks], Tensor]
"""`visit`, as it is or compiled."""


class CrossViewAttention(nn.Module):
    """x + W_out attention(norm(x), sources), no biases; QK-norm (RMS)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.attention_head_dim
        self.heads = config.dim // self.head_dim
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.ray = nn.Linear(3, config.dim, bias=False)
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.query_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.source_norm = nn.LayerNorm(config.dim, bias=False)
        self.kv = nn.Linear(config.dim, 2 * config.dim, bias=False)
        self.key_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def reset(self) -> None:
        """Begin by adding nothing; rays are small numbers, and count from the start."""
        nn.init.normal_(self.ray.weight, std=0.3)
        nn.init.zeros_(self.out.weight)

    def keys_and_values(self, tokens_BKTC: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Of the frames, turned by their patches' places: [B, K, T, 2, N, D]."""
        split = (*tokens_BKTC.shape[:3], 2, self.heads, self.head_dim)
        key, value = self.kv(self.source_norm(tokens_BKTC)).view(split).unbind(3)
        key = rms_normalise(key, self.key_norm.weight, self.key_norm.eps).to(value.dtype)
        points, places = torch.stack([key, value], 3).chunk(2, -1)
        return torch.cat([points, _turned(places, cosine[:, None], sine[:, None])], -1)

    def forward(self, x_BVTC: Tensor, frames_BKT2ND: Tensor, looks: Looks) -> Tensor:
        """Tokens of the views in, tokens out. frames: `keys_and_values` of the whole bank."""
        b, v, t, c = x_BVTC.shape
        asked = self.norm(x_BVTC) + self.ray(looks.rays.to(x_BVTC.dtype))
        query = self.query(asked).view(b, v, t, self.heads, self.head_dim)
        kind = query.dtype
        query = rms_normalise(query, self.query_norm.weight, self.query_norm.eps).to(kind)
        points, places = query.chunk(2, -1)
        query = torch.cat([points, _turned(places, looks.cosine, looks.sine)], -1)
        key, value = gather_frames(frames_BKT2ND, looks.frames).unbind(4)
        points, places = key.chunk(2, -1)
        key = torch.cat([_moved(points, looks.moves, keep_norm=True), places], -1)
        points, places = value.chunk(2, -1)
        value = torch.cat([_moved(points, looks.moves), places], -1)
        # all views have equally many sources: nothing is masked, and the fastest kernels serve
        mixed = functional.scaled_dot_product_attention(
            query.flatten(0, 1).transpose(1, 2),
            key.to(kind).flatten(0, 1).flatten(1, 2).transpose(1, 2),
            value.to(kind).flatten(0, 1).flatten(1, 2).transpose(1, 2),
        )
        points, places = mixed.transpose(1, 2).unflatten(0, (b, v)).chunk(2, -1)
        seen = torch.cat([points, _turned(places, looks.cosine, -looks.sine)], -1)
        added = self.out(seen.reshape(b, v, t, c))
        if looks.allowed is not None:
            added = torch.where(looks.allowed[..., None, None], added, 0.0)
        return x_BVTC + added


class CrossView(nn.Module):
    """The layers of attention across views, and what they are shown of frames."""

    def __init__(self, config: ModelConfig, bank: BankConfig) -> None:
        super().__init__()
        self.patch, self.head_dim = config.patch, config.attention_head_dim
        blocks = len(config.stack) // block_length(config.stack)
        count = config.cross_view
        self.places = [blocks * (number + 1) // (count + 1) for number in range(count)]
        maps = (bank.features + 3) * (config.patch // _MAP_STRIDE) ** 2
        self.embed = nn.Sequential(
            nn.Linear(3 * config.patch**2 + maps + 3, config.dim),
            nn.GELU(),
            nn.Linear(config.dim, config.dim),
        )
        # under this name training finds hidden matrices
        self.layers = nn.ModuleList(CrossViewAttention(config) for _ in range(count))

    def reset(self) -> None:
        """First weights, where the model's general rule isn't theirs."""
        for layer in self.embed:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        for attention in self.layers:
            attention.reset()  # type: ignore[operator]

    def forward(
        self, pictures_BK3HW: Tensor, cameras: Cameras, maps_BKChw: Tensor
    ) -> tuple[Tensor, ...]:
        """What each layer is shown of frames: [B, K, T, 2, N, D] a layer. pictures in [0, 1], maps:
        their MatchingFeatures, cameras [B, K] of which only the lenses count."""
        parts = [
            patchify(pictures_BK3HW * 2 - 1, self.patch),
            patchify(maps_BKChw, self.patch // _MAP_STRIDE),
            _own_rays(cameras, self.patch),
        ]
        first = self.embed[0].weight
        assert isinstance(first, Tensor)
        tokens = self.embed(torch.cat([part.to(first.dtype) for part in parts], -1))
        table = self._table(cameras)
        return tuple(layer.keys_and_values(tokens, *table) for layer in self.layers)  # type: ignore

    def looks(
        self, cameras: Cameras, sources: Sources, frames: int, allowed_BV: Tensor | None
    ) -> Looks:
        """cameras [B, V] in the gauge; sources: all that the views are compared with, in a bank of
        `frames`. The first so many of them are valid, in every view alike (`nearest_sources`)."""
        near = sources.nearest(min(frames, sources.frame_index.shape[2]))
        moves = _of_heads(relative_projection(cameras, near.cameras), self.head_dim // 8)
        rays = _own_rays(cameras, self.patch)
        return Looks(near.frame_index, moves, rays, *self._table(cameras), allowed_BV)

    def _table(self, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """[T, 1, D / 2]: rotary places of a view's patches, for all heads."""
        grid = cameras.height // self.patch, cameras.width // self.patch
        cosine, sine = rotary_table(grid, self.head_dim // 2, cameras.c2w_cv.device)
        return cosine[:, None], sine[:, None]


def visit(layer: CrossViewAttention, x_BVTC: Tensor, frames_BKT2ND: Tensor, looks: Looks) -> Tensor:
    """One layer of attention across views: what is compiled, once for all of them."""
    return layer(x_BVTC, frames_BKT2ND, looks)


def looking(
    cross_view: CrossView | None,
    visit: Visit,
    cameras: Cameras,
    sources: Sources | None,
    features: tuple[Tensor, ...],
    allowed_BV: Tensor | None,
) -> Between | None:
    """What happens to queries between blocks of the stack; None where they see no frames. features:
    of the bank, matching features, then `CrossView.forward`."""
    if cross_view is None or sources is None:
        return None
    shown = features[1 : 1 + len(cross_view.layers)]
    looks = cross_view.looks(cameras, sources, shown[0].shape[1], allowed_BV)

    def between(blocks: int, x_BVTC: Tensor) -> Tensor:
        for place, layer, frames in zip(cross_view.places, cross_view.layers, shown, strict=True):
            if place == blocks:
                x_BVTC = visit(layer, x_BVTC, frames, looks)  # type: ignore[arg-type]
        return x_BVTC

    return between


def relative_projection(cameras: Cameras, sources: Cameras) -> Tensor:
    """P_q P_k^-1 of views [B, V] and their sources [B, V, S]: [B, V, S, 4, 4], float32 or wider.

    P = [K, 0; 0, 1] times world-to-camera, K in images of [-1, 1]: homogeneous points, as a source
    sees them times their depth, to what the view sees. A common rigid motion changes nothing.
    """
    with torch.autocast(cameras.c2w_cv.device.type, enabled=False):
        own_axes = cameras.c2w_cv[..., :3, :3].mT[:, :, None]
        offset = (sources.centres - cameras.centres[:, :, None])[..., None]
        lens = normalised_lens(cameras)[:, :, None] @ own_axes
        turn = lens @ sources.c2w_cv[..., :3, :3] @ _inverse_lens(sources)
        top = torch.cat([turn, lens @ offset], -1)
        last = torch.eye(4, dtype=top.dtype, device=top.device)[3:]
        return torch.cat([top, last.expand(*top.shape[:-2], 1, 4)], -2)


def _inverse_lens(cameras: Cameras) -> Tensor:
    """Inverse of `normalised_lens`, [..., 3, 3]."""
    fx, fy, cx, cy = cameras.intrinsics.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    x = torch.stack([cameras.width / (2 * fx), zero, (cameras.width / 2 - cx) / fx], -1)
    y = torch.stack([zero, cameras.height / (2 * fy), (cameras.height / 2 - cy) / fy], -1)
    return torch.stack([x, y, torch.stack([zero, zero, one], -1)], -2)


def _own_rays(cameras: Cameras, patch: int) -> Tensor:
    """Unit directions through the patches' centres in each camera's axes, [B, V, T, 3]."""
    pixels = pixel_grid(cameras.height, cameras.width, patch, cameras.c2w_cv.device)
    fx, fy, cx, cy = cameras.intrinsics[..., None].unbind(-2)
    x, y = (pixels[:, 0] - cx) / fx, (pixels[:, 1] - cy) / fy
    return functional.normalize(torch.stack([x, y, torch.ones_like(x)], -1), dim=-1)


def _turned(places: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`rotate` in float32 or wider; the table broadcasts against places [..., D / 2]."""
    wide = torch.promote_types(places.dtype, torch.float32)
    return rotate(places.to(wide), cosine.to(wide), sine.to(wide)).to(places.dtype)


def _of_heads(moves_BVS44: Tensor, points: int) -> Tensor:
    """The same for all `points` of a head, whose coordinates lie one after another:
    [B, V, S, 4 P, 4 P]. One product with these is 20 times as fast as sums of four on a CPU."""
    each = torch.eye(points, dtype=moves_BVS44.dtype, device=moves_BVS44.device)
    blocks = moves_BVS44[..., :, None, :, None] * each[:, None, :]
    return blocks.flatten(-2).flatten(-3, -2)


def _moved(points_BVSTND: Tensor, moves_BVSDD: Tensor, keep_norm: bool = False) -> Tensor:
    """Projective points [B, V, S, T, N, D / 2] as the view sees them. keep_norm: with the norm that
    a head's channels had."""
    wide = torch.promote_types(points_BVSTND.dtype, torch.float32)
    with torch.autocast(points_BVSTND.device.type, enabled=False):
        points = points_BVSTND.to(wide).flatten(3, 4)
        moved = points @ moves_BVSDD.to(wide).mT
        if keep_norm:
            before, after = (
                torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (points, moved)
            )
            moved = moved * (before / after.clamp_min(1e-6))
    return moved.view(points_BVSTND.shape).to(points_BVSTND.dtype)
