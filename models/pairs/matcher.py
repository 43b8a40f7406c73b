"""Matches between two frames, with how sure they are; depth up to scale; places recognised.

A small siamese network. Tokens at an eighth of the resolution attend to each other and to the other
frame's (LoFTR, Sun et al., CVPR 2021); their correlation says where a token's match is (GMFlow, Xu
et al., CVPR 2022); at a quarter the match is refined by looking up correlations around it and
updating, with shared weights (RAFT, Teed and Deng, ECCV 2020). Confidence is the scale of a Laplace
distribution of the match's error and the probability that the point is seen at all, so that what
moves by itself counts little in a camera's pose.

Intrinsics are known: tokens carry their ray. Pictures are normalised in brightness and contrast.

Shapes: B frames or pairs, H rows, W columns, h = H / 4, w = W / 4, N = h w points, M = N / 4
tokens. Sides are multiples of 8. Point (i, j) lies at the pixel position (4 i + 2, 4 j + 2).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.models.pairs.config import COARSE, STRIDE, PairConfig

_FREQUENCIES = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class FrameCode:
    """What the network knows of frames by themselves.

    tokens [B, M, dim]; fine [B, fine, h, w]; log_depth [B, h, w], each frame's up to a constant of
    its own, with the log of its expected error, log_depth_error; place [B, place], of unit length.
    """

    tokens: Tensor
    fine: Tensor
    log_depth: Tensor
    log_depth_error: Tensor
    place: Tensor

    def __getitem__(self, index: Any) -> FrameCode:
        """Index the frames."""
        return FrameCode(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def joined(codes: list[FrameCode]) -> FrameCode:
        """All frames, one after the other."""
        return FrameCode(
            *(torch.cat([getattr(code, f.name) for code in codes]) for f in fields(FrameCode))
        )


@dataclass(frozen=True, eq=False)
class Matches:
    """Where a's points lie in b, in pixels.

    position [B, h, w, 2]; log_error [B, h, w], log of the expected absolute error in pixels, of
    each coordinate; visible [B, h, w], logits. For training also: coarse, log probabilities of
    tokens [B, M, M], and `steps`, the positions after every iteration [K, B, h, w, 2].
    """

    position: Tensor
    log_error: Tensor
    visible: Tensor
    coarse: Tensor
    steps: Tensor

    @property
    def confidence(self) -> Tensor:
        """Weight of a match in least squares over pixels, [B, h, w]."""
        return self.visible.sigmoid() * (-2.0 * self.log_error).exp()


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(8, channels)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.gelu(self.first(self.norm(x))))


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """x [B, M, dim] reads other [B, M', dim]."""
        q = self.q(self.norm(x))
        k, v = self.kv(self.norm(other)).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        read = functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(read.transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.rise = nn.Linear(dim, 3 * dim)
        self.fall = nn.Linear(3 * dim, dim)
        nn.init.zeros_(self.fall.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fall(functional.gelu(self.rise(self.norm(x))))


class _OwnLayer(nn.Module):
    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.own = _Attention(config.dim, config.heads)
        self.feed_forward = _FeedForward(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.feed_forward(self.own(x, x))


class _JointLayer(nn.Module):
    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.across = _Attention(config.dim, config.heads)
        self.own = _Attention(config.dim, config.heads)
        self.feed_forward = _FeedForward(config.dim)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        x = self.across(x, other)
        return self.feed_forward(self.own(x, x))


class _Refinement(nn.Module):
    """One update of matches and of the state that they are read from."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        hidden, looked_up = config.hidden, 2 * (2 * config.radius + 1) ** 2
        self.look = nn.Conv2d(looked_up + 2, hidden, 1)
        self.mix = nn.Conv2d(2 * hidden, hidden, 3, padding=1)
        self.norm = nn.GroupNorm(8, hidden)
        self.second = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.shift = nn.Conv2d(hidden, 2, 3, padding=1)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)

    def forward(self, state: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        look = functional.gelu(self.look(seen))
        step = self.mix(torch.cat([state, look], 1))
        state = state + self.second(functional.gelu(self.norm(step)))
        return state, self.shift(state)


class PairMatcher(nn.Module):
    """`describe` once a frame, `compare` once a pair."""

    def __init__(self, config: PairConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or PairConfig()
        # an even kernel keeps a halved map centred on its pixels
        self.stem = nn.Sequential(
            nn.Conv2d(3, c.stem, 4, stride=2, padding=1), nn.GELU(), _Residual(c.stem)
        )
        self.to_fine = nn.Sequential(
            nn.Conv2d(c.stem, c.fine, 4, stride=2, padding=1), _Residual(c.fine), _Residual(c.fine)
        )
        self.to_tokens = nn.Sequential(
            nn.Conv2d(c.fine, c.dim, 4, stride=2, padding=1), _Residual(c.dim), _Residual(c.dim)
        )
        self.ray = nn.Linear(2 + 4 * len(_FREQUENCIES), c.dim)
        self.own_layers = nn.ModuleList(_OwnLayer(c) for _ in range(c.own_layers))
        self.joint_layers = nn.ModuleList(_JointLayer(c) for _ in range(c.joint_layers))
        self.place = nn.Linear(c.dim, c.place)
        self.place_logit = nn.Parameter(torch.tensor([8.0, -4.0]))
        self.depth = nn.Sequential(
            nn.Conv2d(c.fine + c.dim, c.hidden, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(c.hidden, 2, 3, padding=1),
        )
        self.token_key = nn.Linear(c.dim, c.dim, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(2.0))
        self.key = nn.Conv2d(c.fine + c.dim, c.match, 1)
        self.state = nn.Conv2d(c.fine + c.dim, c.hidden, 1)
        self.refinement = _Refinement(c)
        self.sure = nn.Conv2d(c.hidden, 2, 3, padding=1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.place_logit.device

    # --- one frame ---

    def describe(self, images: Tensor, intrinsics: Tensor) -> FrameCode:
        """images [B, 3, H, W] in [0, 1]; intrinsics [B, 4] = fx fy cx cy in their pixels."""
        height, width = images.shape[-2:]
        if height % COARSE or width % COARSE:
            raise ValueError(f"pictures of {width}x{height}: sides are multiples of {COARSE}")
        spread, middle = torch.std_mean(images.float(), dim=(1, 2, 3), keepdim=True)
        fine = self.to_fine(self.stem((images - middle) / (spread + 0.05)))
        tokens = self.to_tokens(fine).flatten(2).transpose(1, 2)
        tokens = tokens + self.ray(_ray_code(rays_of(intrinsics, height, width, COARSE)))
        for layer in self.own_layers:
            tokens = layer(tokens)
        both = self._both(tokens, fine)
        depth = self.depth(both).float()
        place = functional.normalize(self.place(tokens).float().mean(1), dim=-1)
        return FrameCode(tokens, fine, depth[:, 0], depth[:, 1].clamp(-4, 3), place)

    def overlap_logit(self, a: Tensor, b: Tensor) -> Tensor:
        """Of places [..., place]: log odds of the share of a that b sees too."""
        return self.place_logit[0] * (a * b).sum(-1) + self.place_logit[1]

    def _both(self, tokens: Tensor, fine: Tensor) -> Tensor:
        """Tokens spread over the points, with the fine features: [B, fine + dim, h, w]."""
        h, w = fine.shape[-2:]
        grid = tokens.transpose(1, 2).unflatten(-1, (h // 2, w // 2))
        return torch.cat([fine, functional.interpolate(grid, (h, w), mode="bilinear")], 1)

    # --- a pair ---

    def compare(self, a: FrameCode, b: FrameCode) -> Matches:
        """Where the points of frames a lie in frames b, pair by pair."""
        tokens_a, tokens_b = a.tokens, b.tokens
        for layer in self.joint_layers:
            tokens_a, tokens_b = layer(tokens_a, tokens_b), layer(tokens_b, tokens_a)
        coarse = self._correlate(tokens_a, tokens_b)
        grid_b = b.fine.shape[-2] // 2, b.fine.shape[-1] // 2
        h, w = a.fine.shape[-2:]
        with torch.no_grad():
            start = _peaks(coarse, grid_b).transpose(1, 2).unflatten(-1, (h // 2, w // 2))
            position = functional.interpolate(start, (h, w), mode="bilinear")  # [B, 2, h, w]
        both = self._both(tokens_a, a.fine)
        keys = self.key(both), self.key(self._both(tokens_b, b.fine))
        levels = _levels(*keys)
        state = self.state(both)
        here = points_of(h, w, STRIDE, position.device).movedim(-1, 0).to(position.dtype)
        steps = []
        for _ in range(self.config.iterations):
            position = position.detach()
            seen = self._look_up(levels, position)
            flow = (position - here) / (STRIDE * 8.0)
            state, shift = self.refinement(state, torch.cat([seen, flow.to(seen.dtype)], 1))
            position = position + STRIDE * shift.float()
            steps.append(position.movedim(1, -1))
        sure = self.sure(state).float()
        return Matches(
            position=steps[-1],
            log_error=sure[:, 0].clamp(-3.5, 4.0),
            visible=sure[:, 1],
            coarse=coarse,
            steps=torch.stack(steps),
        )

    def _correlate(self, a: Tensor, b: Tensor) -> Tensor:
        """Log probabilities [B, M, M'] of tokens' matches, float32."""
        a, b = (functional.normalize(self.token_key(t).float(), dim=-1) for t in (a, b))
        return (self.sharpness.exp() * a @ b.transpose(1, 2)).log_softmax(-1)

    def _look_up(self, levels: list[Tensor], position: Tensor) -> Tensor:
        """Correlations around positions [B, 2, h, w] in pixels: [B, 2 (2 radius + 1)^2, h, w]."""
        radius = self.config.radius
        batch, _, h, w = position.shape
        reach = torch.arange(-radius, radius + 1, device=position.device, dtype=position.dtype)
        around = torch.stack(torch.meshgrid(reach, reach, indexing="xy"), -1).flatten(0, 1)
        found = []
        for level, table in enumerate(levels):
            rows, columns = table.shape[-2:]
            size = torch.tensor([columns, rows], device=position.device, dtype=position.dtype)
            centre = position.movedim(1, -1).reshape(batch * h * w, 1, 1, 2)
            at = centre / (STRIDE * 2**level) + around[None, None]
            grid = 2.0 * at / size - 1.0
            looked = functional.grid_sample(table, grid, align_corners=False)
            found.append(looked.view(batch, h, w, -1).movedim(-1, 1))
        return torch.cat(found, 1)


def _levels(a: Tensor, b: Tensor) -> list[Tensor]:
    """Correlations of keys [B, C, h, w] as [B h w, 1, h', w'] at full and at half resolution."""
    table = torch.einsum("bcn,bchw->bnhw", a.flatten(2), b) * a.shape[1] ** -0.5
    table = table.flatten(0, 1)[:, None].float()
    return [table, functional.avg_pool2d(table, 2)]


def _peaks(log_probability: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions in pixels [B, M, 2]: the mean over the neighbourhood of the likeliest token."""
    rows, columns = grid
    points = points_of(rows, columns, COARSE, log_probability.device).flatten(0, 1)
    best = points[log_probability.argmax(-1)]
    near = ((points[None, None] - best[:, :, None]).abs() < 1.5 * COARSE).all(-1)
    weight = torch.where(near, log_probability, -torch.inf).softmax(-1)
    return weight @ points


def points_of(rows: int, columns: int, stride: int, device: torch.device | None = None) -> Tensor:
    """Pixel positions [rows, columns, 2] of the middles of stride x stride squares, float32."""
    u = (torch.arange(columns, device=device) + 0.5) * stride
    v = (torch.arange(rows, device=device) + 0.5) * stride
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)


def rays_of(intrinsics: Tensor, height: int, width: int, stride: int = STRIDE) -> Tensor:
    """Points of the plane z = 1 seen at the middles of stride x stride squares: [B, n, 2]."""
    points = points_of(height // stride, width // stride, stride, intrinsics.device)
    return to_plane(points.flatten(0, 1)[None], intrinsics)


def to_plane(pixels: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels [B, n, 2] in the plane z = 1, for intrinsics [B, 4]."""
    return (pixels - intrinsics[:, None, 2:]) / intrinsics[:, None, :2]


def _ray_code(rays: Tensor) -> Tensor:
    waves = [rays]
    for frequency in _FREQUENCIES:
        waves += [(frequency * rays).sin(), (frequency * rays).cos()]
    return torch.cat(waves, -1)


def swapped(a: FrameCode, b: FrameCode) -> tuple[FrameCode, FrameCode]:
    """Both directions of pairs as pairs: (a, b) and (b, a), one after the other."""
    return FrameCode.joined([a, b]), FrameCode.joined([b, a])
