"""The elastic commit's reference, its gradients, and what the operators tell a compiler.

Shapes: N = batch x heads, M written matrices, D head width, F hidden width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from everview.kernels.fast_weight import commit, reference
from everview.kernels.fast_weight.elastic import ElasticRule, ElasticState

N, M, D, F = 2, 3, 4, 6
RULES = [
    ElasticRule("mas", "fixed", pull=0.4, decay=0.2),
    ElasticRule("ewc", "streaming", pull=0.7, decay=0.6),
    ElasticRule("si", "ema", pull=0.5, decay=0.5, beta=0.8),
]


def draw() -> tuple[list[Tensor], ElasticState]:
    """weights, direction, step and three norms; the state before. float64."""
    generator = torch.Generator().manual_seed(5)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    norms = [normal(1, 1, F).abs(), normal(1, 1, F).abs(), normal(1, D, 1).abs()]
    step = torch.tensor([0.6, 0.9], dtype=torch.float64)
    state = ElasticState(normal(N, M, D, F), normal(N, M, D, F).abs())
    return [normal(N, M, D, F), normal(N, M, D, F), step, *norms], state


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.score)
def test_gradients_take_importance_and_anchor_for_constants(rule: ElasticRule) -> None:
    tensors, state = draw()
    leaves = [t.requires_grad_() for t in tensors]
    weights, direction, step, *norms = leaves
    moved, kept = commit.elastic_commit(weights, direction, step, norms, rule, state)
    displaced = weights + step.view(-1, 1, 1, 1) * direction
    share = rule.pull * kept.importance
    by_hand = reference.renormalise((1 - share) * displaced + share * state.anchor, norms)
    torch.testing.assert_close(moved, by_hand, rtol=1e-12, atol=1e-12)
    by = torch.randn(moved.shape, generator=torch.Generator().manual_seed(1)).double()
    found = torch.autograd.grad(moved, leaves, by)
    expected = torch.autograd.grad(by_hand, leaves, by)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert not kept.anchor.requires_grad
    assert not kept.importance.requires_grad


def test_without_pull_it_is_the_plain_commit_bit_for_bit() -> None:
    (weights, direction, step, *norms), state = draw()
    rule = ElasticRule("si", "ema", pull=0.0, decay=0.5, beta=0.5)
    moved, _ = commit.elastic_commit(weights, direction, step, norms, rule, state)
    assert torch.equal(moved, commit.fast_weight_commit(weights, direction, step, norms))


def test_unknown_policies_are_refused() -> None:
    (weights, direction, step, *norms), state = draw()
    for rule in (ElasticRule("fisher", "fixed", 1, 1), ElasticRule("si", "loose", 1, 1)):
        with pytest.raises(ValueError, match=r"importance|anchor"):
            commit.elastic_commit(weights, direction, step, norms, rule, state)


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_operators_tell_the_shapes_and_types_of_what_they_return(writes: int) -> None:
    packed = (4, writes, 32, 48)
    with FakeTensorMode():
        weights, direction = torch.empty(packed), torch.empty(packed, dtype=torch.bfloat16)
        norms = [torch.empty(2, 1, 48), torch.empty(2, 1, 48), torch.empty(2, 32, 1)][-writes:]
        step = torch.empty(4)
        leaves = [t.requires_grad_() for t in (weights, direction, step, *norms)]
        arguments = (*leaves[:3], *commit._three(norms))
        moved = commit.commit_operator(*arguments)
        state = (torch.empty(packed), torch.empty(packed))
        for rule in RULES:
            found = commit.elastic_operator(*arguments, *state, *commit._numbers(rule))
            anchor = (0,) if rule.anchor == "fixed" else packed
            assert [tuple(t.shape) for t in found] == [packed, anchor, packed]
            assert all(t.dtype == torch.float32 for t in found)
            gradients = torch.autograd.grad(found[0].sum() + moved.sum(), leaves, retain_graph=True)
            for gradient, leaf in zip(gradients, leaves, strict=True):
                assert (gradient.shape, gradient.dtype) == (leaf.shape, leaf.dtype)
