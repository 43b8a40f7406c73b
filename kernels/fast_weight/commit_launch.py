"""Launches of the commit's kernels: blocks as data, dense operands, sums over programs.

Shapes: N = batch x heads, H heads, M written matrices, D head width, F hidden width, V weight
vectors of a batch element (F for w0 and w2 each, then D for w1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from everview.kernels.backend import on_its_device
from everview.kernels.fast_weight import commit_kernels as kernels
from everview.kernels.fast_weight.commit import LONGEST
from everview.kernels.fast_weight.elastic import ElasticRule, ElasticState

_PER_THREAD = 8
"""Entries of a chunk per thread."""


@dataclass(frozen=True)
class Blocks:
    """Weight vectors of a program and entries of a vector in one of its chunks, for vectors down
    the columns of [D, F] and along its rows, all powers of two; warps."""

    columns: int
    column_entries: int
    rows: int
    row_entries: int
    warps: int


def blocks_for(width: int, hidden: int) -> Blocks:
    """The columns of a block fill at least a sector of 32 bytes; both kinds have equal size."""
    tall, long = _chunk_entries(width), _chunk_entries(hidden)
    columns = 32 if tall <= 64 else 16 if tall <= 256 else 8
    warps = min(32, max(4, tall * columns // (32 * _PER_THREAD)))
    rows = max(1, warps * 32 * _PER_THREAD // long)
    return Blocks(columns, tall, min(rows, triton.next_power_of_2(width)), long, warps)


def block_constants(blocks: Blocks, width: int, hidden: int) -> dict[str, int]:
    """The blocks as constants of the kernels."""
    return {
        "COLUMNS": blocks.columns,
        "COLUMN_ENTRIES": blocks.column_entries,
        "COLUMN_CHUNKS": math.ceil(width / blocks.column_entries),
        "ROWS": blocks.rows,
        "ROW_ENTRIES": blocks.row_entries,
        "ROW_CHUNKS": math.ceil(hidden / blocks.row_entries),
    }


def _chunk_entries(size: int) -> int:
    """A quarter of the next power of two: three or four chunks, little of them beyond the end."""
    return max(16, triton.next_power_of_2(size) // 4)


@dataclass(frozen=True)
class _Problem:
    """Which matrices have weight vectors down their columns (the first), which along their rows."""

    shape: torch.Size
    column_norms: tuple[Tensor, ...]
    row_norms: tuple[Tensor, ...]
    blocks: Blocks

    @property
    def programs(self) -> int:
        """Per batch element."""
        width, hidden = self.shape[2:]
        column_blocks = len(self.column_norms) * math.ceil(hidden / self.blocks.columns)
        return column_blocks + len(self.row_norms) * math.ceil(width / self.blocks.rows)

    @property
    def vectors(self) -> int:
        """V."""
        width, hidden = self.shape[2:]
        return len(self.column_norms) * hidden + len(self.row_norms) * width

    @property
    def heads(self) -> int:
        return (*self.column_norms, *self.row_norms)[0].shape[0]

    def norm_arguments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Two of columns, one of rows; those that don't exist stand in for one another."""
        some = (*self.column_norms, *self.row_norms)[0]
        first, second = (*self.column_norms, some, some)[:2]
        return first, second, (*self.row_norms, some)[0]

    def constants(self) -> dict[str, int]:
        """Of both kernels, and their warps."""
        return {
            "COLUMN_MATRICES": len(self.column_norms),
            "ROW_MATRICES": len(self.row_norms),
            "num_warps": self.blocks.warps,
            **block_constants(self.blocks, *self.shape[2:]),
        }


def _problem(weights: Tensor, norms: Sequence[Tensor | None]) -> _Problem:
    """Raises ValueError for shapes and types that the kernels don't take."""
    n, matrices, width, hidden = weights.shape
    given = [norm for norm in norms if norm is not None]
    row_wise = [norm.shape[1:] == (width, 1) for norm in given]
    column_wise = [norm.shape[1:] == (1, hidden) for norm in given]
    columns = row_wise.count(False)
    if (
        len(given) != matrices
        or row_wise != sorted(row_wise)
        or not all(column_wise[:columns])
        or matrices - columns > 1
        or columns > 2
        or len({norm.shape[0] for norm in given}) != 1
        or n % given[0].shape[0]
    ):
        raise ValueError(
            f"a commit of {list(weights.shape)}: norms [H, 1, F] of w0 and w2, then [H, D, 1] of "
            f"w1, not {[list(norm.shape) for norm in given]}"
        )
    if max(width if columns else 0, hidden if columns < matrices else 0) > LONGEST:
        raise ValueError(
            f"a commit of {list(weights.shape)}: weight vectors of more than {LONGEST} entries"
        )
    flat = tuple(norm.reshape(norm.shape[0], -1).contiguous() for norm in given)
    return _Problem(weights.shape, flat[:columns], flat[columns:], blocks_for(width, hidden))


def _dense(x: Tensor, like: Tensor) -> Tensor:
    """x with each batch element contiguous; any stride from one to the next. Raises ValueError."""
    if x.shape != like.shape:
        raise ValueError(f"a commit of {list(like.shape)} with a tensor {list(x.shape)}")
    return x if x[0].is_contiguous() else x.contiguous()


def _elastic_inputs(state: ElasticState | None, weights: Tensor) -> tuple[Tensor, Tensor]:
    if state is None:
        return weights, weights
    return _dense(state.anchor, weights), _dense(state.importance, weights)


@on_its_device
def forward(
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norms: Sequence[Tensor | None],
    rule: ElasticRule | None = None,
    state: ElasticState | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Moved weights, anchor, importance; the last two are empty where nothing moves them."""
    if step.shape != weights.shape[:1]:
        raise ValueError(f"steps {list(step.shape)} of a commit of {list(weights.shape)}: [N]")
    problem = _problem(weights, norms)
    weights, direction = _dense(weights, weights), _dense(direction, weights)
    anchor, importance = _elastic_inputs(state, weights)
    moved = weights.new_empty(weights.shape)
    score, follow, pull, decay, beta = "", "fixed", 0.0, 0.0, 0.0
    if rule is not None:
        score, follow, pull = rule.score, rule.anchor, rule.pull
        decay, beta = rule.decay, rule.beta
    nothing = weights.new_empty(0)
    moved_importance = nothing if rule is None else torch.empty_like(moved)
    moved_anchor = nothing if follow == "fixed" else torch.empty_like(moved)
    n, _, width, hidden = weights.shape
    kernels.commit_kernel[(problem.programs, n)](
        weights, direction, step.contiguous(), *problem.norm_arguments(), anchor, importance,
        moved, moved_anchor, moved_importance,
        *(t.stride(0) for t in (weights, direction, anchor, importance, moved)),
        problem.heads, width, hidden, pull, decay, 1 - decay, beta, 1 - beta,
        SCORE=score, FOLLOW=follow, **problem.constants(),
    )  # fmt: skip
    return moved, moved_anchor, moved_importance


@on_its_device
def backward(
    by_moved: Tensor,
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norms: Sequence[Tensor | None],
    rule: ElasticRule | None = None,
    state: ElasticState | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by weights, direction (its type), step [N] and norms [H, V]."""
    problem = _problem(weights, norms)
    weights, direction = _dense(weights, weights), _dense(direction, weights)
    by_moved = _dense(by_moved, weights)
    anchor, importance = _elastic_inputs(state, weights)
    n, _, width, hidden = weights.shape
    by_weights = weights.new_empty(weights.shape)
    by_direction = direction.new_empty(direction.shape)
    by_step = weights.new_empty(n, problem.programs)
    by_norms = weights.new_empty(n, problem.vectors)
    score, pull, decay = ("", 0.0, 0.0) if rule is None else (rule.score, rule.pull, rule.decay)
    operands = (by_moved, weights, direction, anchor, importance, by_weights)
    kernels.backward_kernel[(problem.programs, n)](
        by_moved, weights, direction, step.contiguous(), *problem.norm_arguments(), anchor,
        importance, by_weights, by_direction, by_step, by_norms,
        *(t.stride(0) for t in operands),
        problem.heads, width, hidden, problem.vectors, pull, decay, 1 - decay,
        SCORE=score, **problem.constants(),
    )  # fmt: skip
    heads = problem.heads
    summed = by_norms if heads == n else by_norms.view(-1, heads, problem.vectors).sum(0)
    return by_weights, by_direction, by_step.sum(1), summed
