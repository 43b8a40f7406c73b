"""Commits of packed fast weights, plain and elastic: the public functions and their operators.

On a GPU one Triton launch serves all written matrices, forward and backward (commit_kernels.py);
the reference serves the rest (`everview.kernels.backend`). The backward recomputes what it needs
from the inputs: nothing else is kept.

Shapes: N = batch x heads, H heads (the fastest), M written matrices, D head width, F hidden width,
V weight vectors of a batch element: F for w0 and w2 each, then D for w1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from everview.kernels.backend import by_triton
from everview.kernels.fast_weight import elastic, reference
from everview.kernels.fast_weight.elastic import ElasticRule, ElasticState

__all__ = ["ElasticRule", "ElasticState", "elastic_commit", "fast_weight_commit"]

LONGEST = 8192
"""Entries of a weight vector that a program of the kernels can hold."""


def _by_triton(weights: Tensor) -> bool:
    if not weights.is_cuda or weights.numel() == 0:
        return False
    return by_triton("fast_weight_commit", weights.device, _refused(weights))


def _refused(weights: Tensor) -> str:
    """What of these weights the kernels don't take, in words; empty if nothing."""
    if weights.dtype != torch.float32:
        return f"{weights.dtype} weights, not float32"
    if max(weights.shape[2:]) > LONGEST:
        return f"weight vectors of {max(weights.shape[2:])} entries, more than {LONGEST}"
    return ""


def fast_weight_commit(
    weights: Tensor, direction: Tensor, step: Tensor, norms: Sequence[Tensor]
) -> Tensor:
    """renorm(weights + step * direction); where step is 0 the weights, bit for bit.

    weights: [N, M, D, F], float32 or float64. direction: [N, M, D, F], any floating type. step:
    [N]; 0 is a closed write gate: a direction that isn't finite leaves the weights as they were.
    norms: as from `initial_norms`, those of w1 last. On a GPU Triton takes float32 weights with
    D and F up to 8,192; others go to the reference, which is logged.
    """
    if not _by_triton(weights):
        return reference.fast_weight_commit(weights, direction, step, norms)
    return commit_operator(weights, direction, step.to(weights.dtype), *_three(norms))


def elastic_commit(
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norms: Sequence[Tensor],
    rule: ElasticRule,
    state: ElasticState,
) -> tuple[Tensor, ElasticState]:
    """`fast_weight_commit` with the elastic pull before renormalisation: see elastic.py.

    Returns the weights and the state after the commit. Neither anchor nor importance takes or
    gives a gradient.
    """
    if not _by_triton(weights):
        return elastic.elastic_commit(weights, direction, step, norms, rule, state)
    moved, anchor, importance = elastic_operator(
        weights, direction, step.to(weights.dtype), *_three(norms), *state, *_numbers(rule)
    )
    kept = state.anchor if rule.anchor == "fixed" else anchor
    return moved, ElasticState(kept.detach(), importance.detach())


def _three(norms: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    first, second, third = (*norms, None, None)[:3]
    return first, second, third


def _numbers(rule: ElasticRule) -> tuple[str, str, float, float, float]:
    return rule.score, rule.anchor, float(rule.pull), float(rule.decay), float(rule.beta)


@torch.library.custom_op("everview::fast_weight_commit", mutates_args=())
def commit_operator(
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norm0: Tensor,
    norm1: Tensor | None,
    norm2: Tensor | None,
) -> Tensor:
    """The moved weights. norm0, norm1, norm2: of the M matrices in packed order."""
    from everview.kernels.fast_weight import commit_launch

    return commit_launch.forward(weights, direction, step, (norm0, norm1, norm2))[0]


@commit_operator.register_fake
def _(
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norm0: Tensor,
    norm1: Tensor | None,
    norm2: Tensor | None,
) -> Tensor:
    return weights.new_empty(weights.shape)


@torch.library.custom_op("everview::elastic_commit", mutates_args=())
def elastic_operator(
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norm0: Tensor,
    norm1: Tensor | None,
    norm2: Tensor | None,
    anchor: Tensor,
    importance: Tensor,
    score: str,
    follow: str,
    pull: float,
    decay: float,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The moved weights, anchor (empty where it is fixed) and importance."""
    from everview.kernels.fast_weight import commit_launch

    rule = ElasticRule(score, follow, pull, decay, beta)  # type: ignore[arg-type]
    state = ElasticState(anchor, importance)
    return commit_launch.forward(weights, direction, step, (norm0, norm1, norm2), rule, state)


@elastic_operator.register_fake
def _(
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norm0: Tensor,
    norm1: Tensor | None,
    norm2: Tensor | None,
    anchor: Tensor,
    importance: Tensor,
    score: str,
    follow: str,
    pull: float,
    decay: float,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    moved_anchor = weights.new_empty((0,) if follow == "fixed" else weights.shape)
    return weights.new_empty(weights.shape), moved_anchor, weights.new_empty(weights.shape)


@torch.library.custom_op("everview::fast_weight_commit_backward", mutates_args=())
def backward_operator(
    by_moved: Tensor,
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norm0: Tensor,
    norm1: Tensor | None,
    norm2: Tensor | None,
    anchor: Tensor | None,
    importance: Tensor | None,
    score: str,
    pull: float,
    decay: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by weights, direction, step and norms [H, V]; score "" is a plain commit."""
    from everview.kernels.fast_weight import commit_launch

    rule = state = None
    if score:
        rule = ElasticRule(score, "fixed", pull, decay)  # type: ignore[arg-type]
        state = ElasticState(anchor, importance)
    norms = (norm0, norm1, norm2)
    return commit_launch.backward(by_moved, weights, direction, step, norms, rule, state)


@backward_operator.register_fake
def _(
    by_moved: Tensor,
    weights: Tensor,
    direction: Tensor,
    step: Tensor,
    norm0: Tensor,
    norm1: Tensor | None,
    norm2: Tensor | None,
    anchor: Tensor | None,
    importance: Tensor | None,
    score: str,
    pull: float,
    decay: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    heads, vectors = norm0.shape[0], _vectors((norm0, norm1, norm2))
    return (
        weights.new_empty(weights.shape),
        direction.new_empty(direction.shape),
        step.new_empty(step.shape),
        weights.new_empty(heads, vectors),
    )


def _vectors(norms: Sequence[Tensor | None]) -> int:
    return sum(norm.shape[1] * norm.shape[2] for norm in norms if norm is not None)


_CONSTANTS = 5
"""score, follow, pull, decay, beta"""


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.set_materialize_grads(False)  # no zeros for anchor and importance
    elastically = len(inputs) > 6
    ctx.constants = inputs[-_CONSTANTS:] if elastically else ("", "", 0.0, 0.0, 0.0)
    saved = inputs[:-_CONSTANTS] if elastically else (*inputs, None, None)
    ctx.save_for_backward(*saved)


def _gradients(ctx, by_moved):  # type: ignore[no-untyped-def]
    score, _, pull, decay, _ = ctx.constants
    weights, direction, step, *norms, anchor, importance = ctx.saved_tensors
    if by_moved is None:
        return (None,) * 6
    by_weights, by_direction, by_step, by_norms = backward_operator(
        by_moved, weights, direction, step, *norms, anchor, importance, score, pull, decay
    )
    parts: list[Tensor | None] = []
    at = 0
    for norm in norms:
        if norm is None:
            parts.append(None)
            continue
        count = norm.shape[1] * norm.shape[2]
        parts.append(by_norms[:, at : at + count].reshape(norm.shape).to(norm.dtype))
        at += count
    return by_weights, by_direction, by_step, *parts


def _elastic_gradients(ctx, by_moved, by_anchor, by_importance):  # type: ignore[no-untyped-def]
    return *_gradients(ctx, by_moved), *(None,) * (2 + _CONSTANTS)


commit_operator.register_autograd(_gradients, setup_context=_setup)
elastic_operator.register_autograd(_elastic_gradients, setup_context=_setup)
