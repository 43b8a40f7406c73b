"""Layers run one after another, in blocks of the letters that a stack repeats.

A block is what is compiled: an addition to the residual stream then meets the next layer's norm in
one kernel, and all blocks share their graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from everview.models.layers.grid import TokenGrid
from everview.models.layers.plan import Plan
from everview.models.layers.protocol import Layer, LayerState

LONGEST_BLOCK = 6
Run = Callable[..., tuple[Tensor | None, Tensor | None, tuple[LayerState, ...]]]
"""`run_block`, as it is or compiled."""
Between = Callable[[int, Tensor], Tensor]
"""What happens to queries between blocks: how many lie before, and their tokens."""


def block_length(stack: str) -> int:
    """Letters after which a stack repeats itself; 1 where that takes too many."""
    for length in range(1, LONGEST_BLOCK + 1):
        repeats = len(stack) // length
        if stack[:length] * repeats == stack:
            return length
    return 1


def run_block(
    layers: tuple[Layer, ...],
    inputs_BVTC: Tensor | None,
    queries_BVTC: Tensor | None,
    states: tuple[LayerState, ...],
    plan: Plan | None,
    steps_BU: Tensor | None,
    grid: TokenGrid,
) -> tuple[Tensor | None, Tensor | None, tuple[LayerState, ...]]:
    """Layer.run of each in turn."""
    left = []
    for layer, before in zip(layers, states, strict=True):
        inputs_BVTC, queries_BVTC, after = layer.run(
            inputs_BVTC, queries_BVTC, before, plan, steps_BU, grid
        )
        left.append(after)
    return inputs_BVTC, queries_BVTC, tuple(left)


def recomputed(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` whose activations are computed again in the backward pass (Chen et al. 2016): of each
    block only its inputs are kept, for about a third more work."""

    def run_again(*arguments: Any) -> Any:
        return checkpoint(run, *arguments, use_reentrant=False, preserve_rng_state=False)

    return run_again


def run_stack(
    run: Run,
    layers: Iterable[Layer],
    length: int,
    inputs_BVTC: Tensor | None,
    queries_BVTC: Tensor | None,
    states: tuple[LayerState, ...],
    plan: Plan | None,
    steps_BU: Tensor | None,
    grid: TokenGrid,
    between: Between | None = None,
) -> tuple[Tensor | None, Tensor | None, tuple[LayerState, ...]]:
    """`run` over blocks of `length` layers, and `between` before each."""
    every, left = tuple(layers), list[LayerState]()
    for start in range(0, len(every), length):
        block = slice(start, start + length)
        if between is not None and queries_BVTC is not None:
            queries_BVTC = between(start // length, queries_BVTC)
        inputs_BVTC, queries_BVTC, after = run(
            every[block],
            inputs_BVTC,
            queries_BVTC,
            states[block],
            plan,
            steps_BU,
            grid,
        )
        left.extend(after)
    return inputs_BVTC, queries_BVTC, tuple(left)
