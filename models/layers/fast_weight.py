"""The letter T: the fast-weight memory (LaCT, arXiv 2505.23884; elastic form, arXiv 2604.07350).

Large-chunk test-time training: a SwiGLU network whose weights are the state. A chunk's tokens write
keys and values into it with one large update; queries read it. Equations: kernels.fast_weight.

When only w1 is written, the keys' features don't depend on the state (w0 and w2 stay as learned)
and neither does the gradient: <h w1, v> is linear in w1. All chunks' sums and their Newton-Schulz
are then one batch, and only the renormalised additions remain sequential. (TTT as linear
attention, arXiv 2602.21204, variant 1: as good as writing all three.)

Shapes: B scenes, V views, T tokens of a view, L = V T, C channels, H heads, D head width,
F hidden width, N = B H, U updates, M written matrices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.kernels.fast_weight import (
    FastWeights,
    fast_weight_apply,
    fast_weight_commit,
    fast_weight_direction,
    fast_weight_gradient,
    initial_norms,
    pack,
    unpack,
    written,
)
from everview.kernels.rms_norm import rms_normalise
from everview.models.config import ModelConfig
from everview.models.context import Context
from everview.models.elastic import ElasticState
from everview.models.layers.plan import Plan
from everview.models.schedule import Operation


class FastWeightState(NamedTuple):
    """Everything a memory layer carries, for the matrices it writes.

    weights: float32, packed [N, M, D, F] (kernels.fast_weight). momentum: as weights, or None. A
    batch of scenes that share one storage (stride 0) is one that nothing was written into yet: only
    `init_state` makes it, and it stands for the learned weights as they are when it is read.
    """

    weights: Tensor
    momentum: Tensor | None = None
    elastic: ElasticState | None = None


class Packet(NamedTuple):
    """Raw projections: queries [N, L, D] for readers; keys and values [N, L, 2D], rates [N, L, 3]
    and a momentum gate [N, L] for writers. None for a role that wasn't asked for."""

    queries: Tensor | None
    keys_values: Tensor | None
    rates: Tensor | None
    gates: Tensor | None = None


class Delta(NamedTuple):
    """What a chunk writes, before it counts: sums over its tokens [N, M, D, F], which may be
    all-reduced, gated or discarded. decay: the chunk's momentum factor [N], or None."""

    sums: Tensor
    decay: Tensor | None = None
    is_sum: bool = True


class FastWeightMemory(nn.Module):
    """x + W_out norm(f_W(q)); the state W is written by keys and values of each chunk."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.memory_heads
        self.width = config.dim // config.memory_heads
        self.writes = written(config.memory_writes)
        self.optimiser = config.memory_optimiser
        self.newton_schulz_steps = config.newton_schulz_steps
        self.elastic = config.elastic
        self.base_rate = config.base_rate
        hidden = self.width * config.memory_expansion
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.rates = nn.Linear(config.dim, 3 * self.heads)
        self.momentum = nn.Linear(config.dim, self.heads) if config.memory_momentum else None
        self.w0 = nn.Parameter(torch.randn(self.heads, self.width, hidden) / math.sqrt(self.width))
        self.w1 = nn.Parameter(torch.randn(self.heads, hidden, self.width) / math.sqrt(hidden))
        self.w2 = nn.Parameter(torch.randn(self.heads, self.width, hidden) / math.sqrt(self.width))
        self.read_norm = nn.RMSNorm(self.width, eps=1e-5)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    # --- the memory contract -------------------------------------------------------------------

    def init_state(self, batch: int) -> FastWeightState:
        """The learned initial weights for `batch` scenes; momentum 0, anchors at the weights."""
        weights = self._initial()
        if weights.dtype != torch.float64:
            weights = weights.float()
        # one head: not copied, so that `_full` can tell that all scenes still share them
        weights = (
            weights.expand(batch, -1, -1, -1) if self.heads == 1 else weights.repeat(batch, 1, 1, 1)
        )
        momentum = None if self.momentum is None else torch.zeros_like(weights)
        elastic = None if self.elastic is None else self.elastic.init_state(weights)
        return FastWeightState(weights, momentum, elastic)

    def project(self, x_BLC: Tensor, reads: bool = True, writes: bool = True) -> Packet:
        """Raw projections of normalised tokens for the roles they have; a reader pays for queries
        alone."""
        dim = x_BLC.shape[-1]
        if reads and writes:
            queries, keys_values = self.qkv(x_BLC).split([dim, 2 * dim], dim=-1)
        elif writes:
            queries, keys_values = None, functional.linear(x_BLC, self.qkv.weight[dim:])
        else:
            return Packet(self._heads(functional.linear(x_BLC, self.qkv.weight[:dim])), None, None)
        packed = self._paired_heads(keys_values)
        gates = None
        if self.momentum is not None:
            gates = self._heads(torch.sigmoid(self.momentum(x_BLC).float())).squeeze(-1)
        return Packet(
            None if queries is None else self._heads(queries), packed, self._rates(x_BLC), gates
        )

    def accumulate(self, packet: Packet, state: FastWeightState) -> Delta:
        """The chunk's sums; they depend on the state only through matrices that are written."""
        sums = fast_weight_gradient(
            self._full(state.weights), packet.keys_values, packet.rates, self.writes
        )
        return Delta(sums, None if packet.gates is None else packet.gates.mean(dim=1))

    def commit(self, delta: Delta, state: FastWeightState, step_B: Tensor) -> FastWeightState:
        """Momentum, orthogonalisation, step, elastic pull, renormalisation. step_B [B]; 0 is a
        closed write gate and leaves everything as it was."""
        sums, momentum = delta.sums, state.momentum
        if momentum is not None and delta.decay is not None:
            idle = (step_B.repeat_interleave(self.heads) == 0).view(-1, 1, 1, 1)
            sums = momentum * delta.decay.view(-1, 1, 1, 1).to(momentum.dtype) + sums
            momentum = torch.where(idle, momentum, sums)
        state = FastWeightState(state.weights, momentum, state.elastic)
        return self.move(self.direction(sums), state, step_B)

    def read(self, packet: Packet, state: FastWeightState) -> Tensor:
        """f_W(q) [N, L, D] for the packet's queries."""
        return fast_weight_apply(self._full(state.weights), packet.queries)

    # --- parts of a commit ---------------------------------------------------------------------

    def direction(self, sums: Tensor) -> Tensor:
        """Muon's or SGD's direction of a write, [N, M, D, F]."""
        return fast_weight_direction(sums, self.optimiser, self.newton_schulz_steps)

    def move(self, direction: Tensor, state: FastWeightState, step_B: Tensor) -> FastWeightState:
        """Step, elastic pull and renormalisation to the norms of the learned initial weights."""
        weights = state.weights
        step = step_B.repeat_interleave(self.heads).to(weights.dtype)
        norms = initial_norms(self._learned(), self.writes)
        if self.elastic is None:
            moved = fast_weight_commit(weights, direction, step, norms)
            return FastWeightState(moved, state.momentum, None)
        moved, elastic = self.elastic.commit(weights, direction, step, norms, state.elastic)
        return FastWeightState(moved, state.momentum, elastic)

    def _learned(self) -> FastWeights:
        return FastWeights(self.w0, self.w1, self.w2)

    def _initial(self) -> Tensor:
        """The learned initial weights of what is written, packed [H, M, D, F]."""
        return pack(self._learned(), self.writes)

    # --- execution -----------------------------------------------------------------------------

    def run(
        self,
        inputs_BVTC: Tensor | None,
        queries_BVTC: Tensor | None,
        state: FastWeightState,
        plan: Plan | None,
        steps_BU: Tensor | None,
        grid: tuple[int, int],
    ) -> tuple[Tensor | None, Tensor | None, FastWeightState]:
        """See Layer.run."""
        # the queries' projections need no state: ranks exchange the first sums beside them
        begun = None if inputs_BVTC is None else self._begin(inputs_BVTC, state, plan)
        asked = None
        if queries_BVTC is not None:
            asked = self.project(self.norm(queries_BVTC.flatten(1, 2)), writes=False)
        if begun is not None:
            inputs_BVTC, state = self._execute(inputs_BVTC, begun, state, plan, steps_BU)
        if asked is not None:
            queries_BVTC = self._residual(queries_BVTC, self.read(asked, state))
        return inputs_BVTC, queries_BVTC, state

    def _begin(self, x_BVTC: Tensor, state: FastWeightState, plan: Plan) -> _Begun:
        """Project the input tokens and begin the sums of the first update, or of all at once."""
        tokens = x_BVTC.shape[2]
        reading = any(operation.kind == "apply" for operation in plan.operations)
        packet = self.project(self.norm(x_BVTC.flatten(1, 2)), reads=reading)
        updates = [operation for operation in plan.operations if operation.kind == "update"]
        if not updates:
            return _Begun(packet, None, 0)
        count = self._independent(updates, plan)
        if count:
            delta = Delta(self._all_sums(packet, count))
        else:
            span = _token_span(plan.span(updates[0].chunks), tokens)
            delta = self.accumulate(_cut(packet, span), state)
        return _Begun(packet, _begin_total(delta, plan.context), count)

    def _execute(
        self, x_BVTC: Tensor, begun: _Begun, state: FastWeightState, plan: Plan, steps_BU: Tensor
    ) -> tuple[Tensor | None, FastWeightState]:
        """Interpret the plan's operations on the input tokens; None if none of them is read."""
        tokens, packet, context = x_BVTC.shape[2], begun.packet, plan.context
        directions: tuple[Tensor, ...] = ()
        if begun.at_once:
            together = self.direction(_end_total(begun.delta, context).sums)
            directions = together.unflatten(0, (-1, begun.at_once)).unbind(1)
        reads: list[tuple[slice, FastWeightState]] = []
        update = 0
        for operation in plan.operations:
            span = _token_span(plan.span(operation.chunks), tokens)
            if operation.kind == "apply":
                reads.append((span, state))
                continue
            if directions:
                state = self.move(directions[update], state, steps_BU[:, update])
            else:
                delta = begun.delta
                if update:
                    delta = _begin_total(self.accumulate(_cut(packet, span), state), context)
                state = self.commit(_end_total(delta, context), state, steps_BU[:, update])
            update += 1
        if not reads:
            return None, state
        return self._residual(x_BVTC, self._read_all(packet, reads)), state

    def _independent(self, updates: list[Operation], plan: Plan) -> int:
        """How many updates there are, if none's direction depends on the state, so that all can be
        made in one batch; else 0."""
        views = {sum(plan.chunk_views[chunk] for chunk in update.chunks) for update in updates}
        alike = self.writes == ("w1",) and self.momentum is None and len(views) == 1
        return len(updates) if alike else 0

    def _all_sums(self, packet: Packet, count: int) -> Tensor:
        """The sums of `count` updates of equal length, updates next to their batch element."""
        keys_values = packet.keys_values.unflatten(1, (count, -1)).flatten(0, 1)
        rates = packet.rates.unflatten(1, (count, -1)).flatten(0, 1)
        weights = FastWeights(self._shared(self.w0, count), None, self._shared(self.w2, count))
        return fast_weight_gradient(weights, keys_values, rates, self.writes)

    def _shared(self, weight: Tensor, repeats: int) -> Tensor:
        """A frozen matrix for heads whose updates were folded into the batch axis."""
        return weight if self.heads == 1 else weight.repeat_interleave(repeats, dim=0)

    def _read_all(self, packet: Packet, reads: list[tuple[slice, FastWeightState]]) -> Tensor:
        """Every apply of a plan; those of equal length in one batch."""
        if len(reads) == 1:
            return self.read(packet, reads[0][1])
        lengths = {span.stop - span.start for span, _ in reads}
        if self.writes != ("w1",) or len(lengths) != 1:
            parts = [self.read(_cut(packet, span), state) for span, state in reads]
            return torch.cat(parts, dim=1)
        count = len(reads)
        packed = torch.stack([state.weights for _, state in reads], dim=1).flatten(0, 1)
        w0, w2 = self._shared(self.w0, count), self._shared(self.w2, count)
        weights = unpack(packed, self.writes)._replace(w0=w0, w2=w2)
        queries = packet.queries.unflatten(1, (count, -1)).flatten(0, 1)
        return fast_weight_apply(weights, queries).unflatten(0, (-1, count)).flatten(1, 2)

    def _full(self, weights: Tensor) -> FastWeights:
        """The written matrices from the state, the frozen ones as learned; all as learned, and
        shared by the batch, as long as nothing was written."""
        if len(weights) > 1 and weights.stride(0) == 0:
            return self._learned()
        both = zip(unpack(weights, self.writes), self._learned(), strict=True)
        return FastWeights(*(learned if own is None else own for own, learned in both))

    def _heads(self, x_BLC: Tensor) -> Tensor:
        """[B, L, H * D] to [N, L, D]."""
        if self.heads == 1:
            return x_BLC
        return x_BLC.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1)

    def _paired_heads(self, x_BLC: Tensor) -> Tensor:
        """[B, L, 2 * H * D], keys then values, to [N, L, 2 * D]."""
        if self.heads == 1:
            return x_BLC
        split = x_BLC.unflatten(-1, (2, self.heads, -1)).permute(0, 3, 1, 2, 4)
        return split.flatten(3, 4).flatten(0, 1)

    def _rates(self, x_BLC: Tensor) -> Tensor:
        """softplus(Linear(x) + softplus^-1(base)), in float32 or wider, [N, L, 3]."""
        with torch.autocast(x_BLC.device.type, enabled=False):
            wide = x_BLC if x_BLC.dtype == torch.float64 else x_BLC.float()
            offset = math.log(math.expm1(self.base_rate))
            return self._heads(functional.softplus(self.rates(wide) + offset))

    def _residual(self, x_BVTC: Tensor, read_NLD: Tensor) -> Tensor:
        """x + W_out norm(read), heads joined."""
        normed = rms_normalise(read_NLD, self.read_norm.weight, self.read_norm.eps)
        normed = normed.to(read_NLD.dtype)
        if self.heads > 1:
            normed = normed.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(-2)
        return x_BVTC + self.out(normed).view(x_BVTC.shape)


class _Begun(NamedTuple):
    """Input tokens on their way into the memory.

    delta: the first update's, to be ended; or all updates' in one batch, `at_once` of them. None if
    nothing is written.
    """

    packet: Packet
    delta: Delta | None
    at_once: int


def _begin_total(delta: Delta, context: Context) -> Delta:
    """Begin to add up what all ranks of a context write together; momentum's factor is a mean."""
    if context.count == 1:
        return delta
    if not delta.is_sum:
        raise ValueError("what isn't a sum over tokens can't be divided among ranks")
    decay = None if delta.decay is None else context.mean(delta.decay)
    return delta._replace(sums=context.begin_total(delta.sums), decay=decay)


def _end_total(delta: Delta, context: Context) -> Delta:
    return delta._replace(sums=context.end_total(delta.sums))


def _token_span(views: slice, tokens: int) -> slice:
    return slice(views.start * tokens, views.stop * tokens)


def _cut(packet: Packet, span: slice) -> Packet:
    return Packet(*(None if part is None else part[:, span] for part in packet))
