"""The letter S: attention over the last frames, and over the first.

Every token attends to the frames that its window holds: the last `frames` ones and, once those have
left them, the first `sinks` (LongLive, arXiv 2509.22622: sink frames keep what fixed gauge and
scale). A frame is held as cells x cells keys and values, pooled from its tokens, so the window is
equally large for images of any size, and from the first chunk to the last. What is seen inside one
image in full detail is left to the letter W.

Heads are gated by g_h = sigmoid(w_h . mean(x) + b_h), w = 0 and b = 2 at initialisation; rotary
positions run over age, rows and columns (HorizonStream, arXiv 2605.23889, geometric local
attention). Its time index is wrapped to stay in the trained range; here a key is turned by its age
when it is read, which lies between 0 and `frames` by construction, where the sinks stay.

What a chunk brings has one age, so nobody sees an order inside a chunk. Under `chunk_causal` a
chunk's tokens read all frames of the chunk, however long it is, and those in the window of its
first frame; under `shifted` the window before the chunk; under `chunked_set` the window after the
last. Under `set` the window is the whole set, at age 0, because no frame of a set is the last.
Queries read what was left, and write nothing. The last frames say little of a view that others
saw: where a bank keeps more frames than the window has slots, a query reads its nearest ones there,
as many as there are slots, at age 0. Recipes train on as many frames as there are slots, where that
changes nothing. (Six blocks of `WTFWSF`, trained on 8 inputs: fox with 43 went from 26.6 to 28.4
dB, the 52 of hololens60 from 21.3 to 21.7.)

Shapes: B scenes, V views, T tokens of a view, C channels, H heads, D head width, P cells of a
frame, S sinks, M = S + frames slots, K frames, N nearest ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.kernels.rms_norm import rms_normalise
from everview.models.config import ModelConfig
from everview.models.layers.grid import TokenGrid
from everview.models.layers.plan import Plan
from everview.models.layers.rotary import rotate
from everview.models.quantisation import round_rows, unpack_rows

_OPEN = 2.0
_EMPTY = -1


class FrameCells(NamedTuple):
    """What frames write: keys and values [B, V, P, C]."""

    keys: Tensor
    values: Tensor

    def kept(self) -> KeptCells:
        """As a bank keeps them, in a quarter of the room."""
        keys, values = (round_rows(part.detach().float()) for part in self)
        return KeptCells(*keys, *values)

    def at(self, rows: Tensor, places: Tensor) -> FrameCells:
        """Those of the frames at `places` [B, V, N], each view's: [B, V, N, P, C]."""
        return FrameCells(self.keys[rows, places], self.values[rows, places])


class KeptCells(NamedTuple):
    """`FrameCells` in 8 bits a value, int8 [B, V, P, C], and a float32 scale for each cell, [B, V,
    P, 1]: fox and hololens60 are drawn the same to 0.01 dB, with 6 bits too (the campaign log,
    entry 27)."""

    keys: Tensor
    key_scales: Tensor
    values: Tensor
    value_scales: Tensor

    def at(self, rows: Tensor, places: Tensor) -> FrameCells:
        """See `FrameCells.at`."""
        keys, key_scales, values, value_scales = (part[rows, places] for part in self)
        return FrameCells(unpack_rows(keys, key_scales), unpack_rows(values, value_scales))


class Nearest(NamedTuple):
    """What queries read in place of the window: frames at `places` [B, V, N]. views: those that do,
    [B, V] (None: all). frames: the cells of all K (None: of those that the same run takes in)."""

    places: Tensor
    views: Tensor | None
    frames: KeptCells | None


class WindowState(NamedTuple):
    """The tail: slots of frames, sinks first, then the last frames, oldest first.

    keys, values: float32 [B, M, P, C], zeros where there is no frame; keys are normalised and
    turned by their place in the image. ages: int64 [B, M], frames that came after a frame's chunk,
    at most the window's length; -1 where there is no frame. absorbed: int64 [B], frames written.
    arrived: what the last run's frames wrote, until a bank takes it. nearest: a query's alone.
    """

    keys: Tensor
    values: Tensor
    ages: Tensor
    absorbed: Tensor
    arrived: FrameCells | None = None
    nearest: Nearest | None = None


class SlidingWindow(nn.Module):
    """x + W_out gate(x) * attention(norm(x), the window's keys and values), no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.attention_head_dim
        self.heads = config.dim // self.head_dim
        self.frames, self.sinks = config.window.frames, config.window.sinks
        self.slots = config.window.slots
        self.cells = config.window.cells**2
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.query = nn.Linear(config.dim, config.dim, bias=False)
        self.kv = nn.Linear(config.dim, 2 * config.dim, bias=False)
        self.query_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.key_norm = nn.RMSNorm(self.head_dim, eps=1e-6)
        self.gate_weight = nn.Parameter(torch.zeros(self.heads, config.dim))
        self.gate_bias = nn.Parameter(torch.full((self.heads,), _OPEN))
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    # --- the memory ----------------------------------------------------------------------------

    def init_state(self, batch: int) -> WindowState:
        """A window without frames."""
        weight = self.kv.weight
        kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
        empty = weight.new_zeros(batch, self.slots, self.cells, weight.shape[1], dtype=kind)
        ages = torch.full((batch, self.slots), _EMPTY, device=weight.device)
        return WindowState(empty, empty.clone(), ages, ages.new_zeros(batch))

    def project(self, normed_BVTC: Tensor, grid: TokenGrid) -> FrameCells:
        """Tokens averaged into cells and projected; keys normalised and turned."""
        assert grid.window is not None
        pooled = grid.window.pool.to(normed_BVTC.dtype) @ normed_BVTC
        keys, values = self.kv(pooled).chunk(2, dim=-1)
        keys = self._placed(keys, self.key_norm, grid.window.cells).flatten(-2)
        return FrameCells(keys, values)

    def commit(
        self, chunk: FrameCells, state: WindowState, step_B: Tensor, is_set: bool = False
    ) -> WindowState:
        """The window after a chunk's frames; as it was where the step is 0. is_set: all of them
        stay, so that none is chosen by its place in the chunk."""
        kept = max(self.frames, chunk.keys.shape[1]) if is_set else self.frames
        after = self._advanced(state, chunk, kept)
        if kept > self.frames:
            return after  # only training and evaluation know sets, and they close no gates
        closed = step_B == 0
        keys, values, ages, absorbed = (
            torch.where(_beside(closed, b), b, a) for b, a in zip(state[:4], after[:4], strict=True)
        )
        return WindowState(keys, values, ages, absorbed)

    def read(self, queries_BVTHD: Tensor, state: WindowState, grid: TokenGrid) -> Tensor:
        """What queries find in the window, [B, V, T, H, D]; zeros in one without frames."""
        assert grid.window is not None
        views, tokens = queries_BVTHD.shape[1:3]
        turns = (part[state.ages.clamp_min(0)][:, :, None, None] for part in grid.window.ages)
        keys = rotate(state.keys.unflatten(-1, (self.heads, -1)), *turns)
        there = state.ages != _EMPTY
        # where no frame is, all are looked at, and all are zeros
        there = (there | ~there.any(1, keepdim=True))[:, None, None, :, None]
        found = functional.scaled_dot_product_attention(
            queries_BVTHD.flatten(1, 2).transpose(1, 2),
            _by_head(keys, queries_BVTHD.dtype),
            _by_head(state.values.unflatten(-1, (self.heads, -1)), queries_BVTHD.dtype),
            attn_mask=there.expand(-1, 1, 1, -1, self.cells).flatten(3),
        )
        return found.transpose(1, 2).unflatten(1, (views, tokens))

    def read_nearest(
        self, queries_BVTHD: Tensor, frames: FrameCells | KeptCells, places: Tensor
    ) -> Tensor:
        """What the queries of each view find in its frames, at `places` [B, V, N] of K, as in a
        window where all have age 0: [B, V, T, H, D]. frames: [B, K, P, C]."""
        rows = torch.arange(len(places), device=places.device)[:, None, None]
        keys, values = (part.flatten(0, 1) for part in frames.at(rows, places))
        heads = (self.heads, -1)
        found = functional.scaled_dot_product_attention(
            queries_BVTHD.flatten(0, 1).transpose(1, 2),
            _by_head(keys.unflatten(-1, heads), queries_BVTHD.dtype),
            _by_head(values.unflatten(-1, heads), queries_BVTHD.dtype),
        )
        return found.transpose(1, 2).unflatten(0, places.shape[:2])

    def _asked(
        self, queries_BVTHD: Tensor, state: WindowState, nearest: Nearest | None, grid: TokenGrid
    ) -> Tensor:
        """What queries find: each view in its nearest frames, or in the window."""
        if nearest is None:
            return self.read(queries_BVTHD, state, grid)
        frames = state.arrived if nearest.frames is None else nearest.frames
        assert frames is not None
        found = self.read_nearest(queries_BVTHD, frames, nearest.places)
        if nearest.views is None:
            return found
        windowed = self.read(queries_BVTHD, state, grid)
        return torch.where(_beside(nearest.views, found), found, windowed)

    def _around(self, chunk: FrameCells, before: WindowState) -> WindowState:
        """What a chunk itself reads: its frames, and those in the window of its first one."""
        return self._advanced(before, chunk, self.frames - 1 + chunk.keys.shape[1])

    def _advanced(self, state: WindowState, chunk: FrameCells, frames: int) -> WindowState:
        """The window with a chunk's frames in it and the last `frames` of all kept; the first that
        ever leave them become sinks."""
        arriving, held = chunk.keys.shape[1], state.ages.shape[1] - self.sinks
        leaving = held + arriving - frames
        older = (state.ages + arriving).clamp_max(self.frames)
        older = older.masked_fill(state.ages == _EMPTY, _EMPTY)
        # where sink n, which is frame n, stands among those held and arriving
        place = torch.arange(self.sinks, device=older.device) + held - state.absorbed[:, None]
        becomes = (place >= 0) & (place < leaving)
        place = place.clamp(0, leaving - 1)

        def moved(slots: Tensor, new: Tensor) -> Tensor:
            row = torch.cat([slots[:, self.sinks :], new.to(slots.dtype)], dim=1)
            index, there = (_beside(part, row) for part in (place, becomes))
            sinks = torch.where(there, row.take_along_dim(index, 1), slots[:, : self.sinks])
            return torch.cat([sinks, row[:, leaving:]], dim=1)

        return WindowState(
            moved(state.keys, chunk.keys),
            moved(state.values, chunk.values),
            moved(older, older.new_zeros(1).expand(len(older), arriving)),
            state.absorbed + arriving,
        )

    # --- execution -----------------------------------------------------------------------------

    def run(
        self,
        inputs_BVTC: Tensor | None,
        queries_BVTC: Tensor | None,
        state: WindowState,
        plan: Plan | None,
        steps_BU: Tensor | None,
        grid: TokenGrid,
    ) -> tuple[Tensor | None, Tensor | None, WindowState]:
        """See Layer.run."""
        nearest = state.nearest
        if inputs_BVTC is not None:
            inputs_BVTC, state = self._execute(inputs_BVTC, state, plan, steps_BU, grid)
        if queries_BVTC is not None:
            normed = self.norm(queries_BVTC)
            found = self._asked(self._queries(normed, grid), state, nearest, grid)
            queries_BVTC = self._residual(queries_BVTC, normed, found)
        return inputs_BVTC, queries_BVTC, state

    def _execute(
        self, x_BVTC: Tensor, state: WindowState, plan: Plan, steps_BU: Tensor, grid: TokenGrid
    ) -> tuple[Tensor | None, WindowState]:
        """Interpret the plan's operations on the input tokens; None if none of them is read."""
        normed = self.norm(x_BVTC)
        cells = self.project(normed, grid)
        reading = any(operation.kind == "apply" for operation in plan.operations)
        asked = self._queries(normed, grid) if reading else None
        found: list[Tensor] = []
        written: list[FrameCells] = []
        update, own, around = 0, None, state
        for operation in plan.operations:
            span = plan.span(operation.chunks)
            if operation.kind == "apply":
                window = around if operation.chunks == own else state
                found.append(self.read(asked[:, span], window, grid))
                continue
            chunk = FrameCells(*(plan.context.whole_chunk(part[:, span]) for part in cells))
            written.append(chunk)
            before, own = state, operation.chunks
            state = self.commit(chunk, before, steps_BU[:, update], plan.is_set)
            if reading:  # around one frame is what it left
                around = self._around(chunk, before) if chunk.keys.shape[1] > 1 else state
            update += 1
        # alone, a rank has the cells of all chunks side by side as they are
        arrived = cells if plan.context.count == 1 else _side_by_side(written)
        # not `_replace`: compiled by torch 2.11 it leaves fields out
        state = WindowState(state.keys, state.values, state.ages, state.absorbed, arrived)
        if asked is None:
            return None, state
        return self._residual(x_BVTC, normed, torch.cat(found, dim=1)), state

    def _queries(self, normed_BVTC: Tensor, grid: TokenGrid) -> Tensor:
        assert grid.window is not None
        projected = self.query(normed_BVTC)
        placed = self._placed(projected, self.query_norm, grid.window.tokens)
        return placed.to(projected.dtype)

    def _placed(self, x: Tensor, norm: nn.RMSNorm, table: tuple[Tensor, Tensor]) -> Tensor:
        """[..., T, C] normalised by head and turned by place, [..., T, H, D]."""
        normed = rms_normalise(x.unflatten(-1, (self.heads, -1)), norm.weight, norm.eps)
        return rotate(normed, *(part.to(normed.dtype)[:, None] for part in table))

    def _residual(self, x_BVTC: Tensor, normed_BVTC: Tensor, found_BVTHD: Tensor) -> Tensor:
        """x + W_out gate * found, heads joined; a gate for each view."""
        with torch.autocast(x_BVTC.device.type, enabled=False):
            mean = normed_BVTC.mean(2)
            mean = mean if mean.dtype == torch.float64 else mean.float()
            weight, bias = self.gate_weight.to(mean.dtype), self.gate_bias.to(mean.dtype)
            gate = functional.linear(mean, weight, bias).sigmoid()
        gated = found_BVTHD * gate[:, :, None, :, None].to(found_BVTHD.dtype)
        return x_BVTC + self.out(gated.flatten(-2))


def _side_by_side(chunks: list[FrameCells]) -> FrameCells:
    """The cells of chunks that follow each other."""
    return FrameCells(*(torch.cat(parts, dim=1) for parts in zip(*chunks, strict=True)))


def _by_head(slots_BMPHD: Tensor, kind: torch.dtype) -> Tensor:
    """[B, H, M P, D], for attention."""
    return slots_BMPHD.flatten(1, 2).transpose(1, 2).to(kind)


def _beside(x: Tensor, other: Tensor) -> Tensor:
    """x with as many axes as `other`, its own first."""
    return x.view(*x.shape, *[1] * (other.ndim - x.ndim))
