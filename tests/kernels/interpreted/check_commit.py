"""The commit as Triton computes it against its reference in float64, in the interpreter.

Shapes: N = batch x heads, H heads, M written matrices, D head width, F hidden width.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from everview.kernels.fast_weight import commit
from everview.kernels.fast_weight.elastic import ElasticRule, ElasticState
from everview.kernels.fast_weight.reference import written

# N, H, D, F: ragged against every block, with several blocks along each axis
SHAPES = [(2, 1, 16, 48), (4, 2, 48, 80), (1, 1, 304, 48)]
WRITES = [("w1",), ("w0",), ("w0", "w2"), ("w2", "w1"), ("w0", "w1", "w2")]
CASES = [
    *((SHAPES[0], writes) for writes in WRITES),
    (SHAPES[1], ("w0", "w1", "w2")),
    (SHAPES[2], ("w2", "w1")),
]
RULES = [
    ElasticRule(score, follow, pull=0.6, decay=0.3, beta=0.7)
    for score, follow in itertools.product(("mas", "ewc", "si"), ("fixed", "streaming", "ema"))
]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def _float32_by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "_by_triton", lambda weights: weights.dtype == torch.float32)


def draw(shape: tuple[int, int, int, int], writes: tuple[str, ...]) -> list[Tensor]:
    """weights, direction, step, anchor, importance, norms: float64. The second sample
    has step 0."""
    n, heads, width, hidden = shape
    generator = torch.Generator().manual_seed(sum(shape))
    packed = (n, len(writes), width, hidden)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    weights, direction, anchor = (normal(*packed) / width**0.5 for _ in range(3))
    step = torch.tensor([0.7, 0.0, 1.0, 0.3], dtype=torch.float64)[:n]
    initial = normal(heads, *packed[1:])
    norms = [
        initial[:, m].norm(dim=-1 if name == "w1" else -2, keepdim=True)
        for m, name in enumerate(written(writes))
    ]
    return [weights, direction, step, anchor, normal(*packed).abs(), *norms]


def committed(tensors: list[Tensor], rule: ElasticRule | None) -> list[Tensor]:
    """Everything that comes out: weights, state, and the gradients of a weighted sum of weights."""
    weights, direction, step, anchor, importance, *norms = tensors
    leaves = [t.clone().requires_grad_() for t in (weights, direction, step, *norms)]
    w, d, s, *target = leaves
    if rule is None:
        moved, kept = commit.fast_weight_commit(w, d, s, target), ()
    else:
        state = ElasticState(anchor, importance)
        moved, kept = commit.elastic_commit(w, d, s, target, rule, state)
    generator = torch.Generator().manual_seed(9)
    by = torch.randn(moved.shape, generator=generator, dtype=torch.float64)
    return [moved, *kept, *torch.autograd.grad(moved, leaves, by.to(moved.dtype))]


def check(shape: tuple[int, int, int, int], writes: tuple[str, ...], rule: ElasticRule | None):
    tensors = draw(shape, writes)
    expected = committed(tensors, rule)
    found = committed([t.float() for t in tensors], rule)
    assert len(found) == len(expected)
    for mine, right in zip(found, expected, strict=True):
        assert mine.shape == right.shape
        torch.testing.assert_close(mine, right.float(), **CLOSE)


@pytest.mark.parametrize(("shape", "writes"), CASES, ids=str)
def test_a_plain_commit_and_its_gradients_equal_the_reference(shape, writes) -> None:
    check(shape, writes, None)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.score}-{rule.anchor}")
def test_an_elastic_commit_and_its_gradients_equal_the_reference(rule: ElasticRule) -> None:
    check(SHAPES[0], ("w0", "w1", "w2"), rule)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
@pytest.mark.parametrize("rule", [None, RULES[-1]], ids=["plain", "elastic"])
def test_step_zero_keeps_every_bit_whatever_the_direction(rule, broken: float) -> None:
    tensors = [t.float() for t in draw(SHAPES[0], ("w0", "w1", "w2"))]
    weights, direction, _, anchor, importance, *_ = tensors
    direction[1] = broken
    found = committed(tensors, rule)
    moved, kept, gradients = found[0], found[1:-6], found[-6:]
    for after, before in zip((moved, *kept), (weights, anchor, importance), strict=False):
        assert torch.equal(after[1], before[1])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    by_weights, by_direction, by_step = gradients[:3]
    generator = torch.Generator().manual_seed(9)
    by = torch.randn(moved.shape, generator=generator, dtype=torch.float64).float()
    assert torch.equal(by_weights[1], by[1])
    assert not by_direction[1].any()
    assert by_step[1] == 0


def test_without_pull_it_is_the_plain_commit_bit_for_bit() -> None:
    tensors = [t.float() for t in draw(SHAPES[0], ("w0", "w1", "w2"))]
    plain = committed(tensors, None)
    free = committed(tensors, ElasticRule("si", "fixed", pull=0.0, decay=0.5))
    assert torch.equal(plain[0], free[0])


def test_a_batch_may_be_a_strided_slice() -> None:
    tensors = [t.float() for t in draw(SHAPES[0], ("w2", "w1"))]
    weights, direction, step, _, _, *norms = tensors
    run = commit.commit_operator
    expected = run(weights, direction, step, *commit._three(norms))
    wide = torch.stack([direction, torch.zeros_like(direction)], dim=1)[:, 0]
    transposed = weights.mT.contiguous().mT
    assert torch.equal(run(transposed, wide, step, *commit._three(norms)), expected)


def test_a_zero_vector_has_no_gradient_of_its_length() -> None:
    tensors = [t.float() for t in draw(SHAPES[0], ("w0", "w1"))]
    tensors[0][0], tensors[1][0] = 0, 0
    assert all(torch.isfinite(t).all() for t in committed(tensors, None))


def test_the_operators_keep_their_promises_to_the_compiler() -> None:
    tensors = [t.float() for t in draw(SHAPES[0], ("w0", "w1"))]
    weights, direction, step, anchor, importance, *norms = tensors
    leaves = [t.requires_grad_() for t in (weights, direction, step, *norms)]
    arguments = (*leaves[:3], *commit._three(leaves[3:]))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(commit.commit_operator, arguments, test_utils=checks)
    for rule in (RULES[0], RULES[-1]):
        elastically = (*arguments, anchor, importance, *commit._numbers(rule))
        torch.library.opcheck(commit.elastic_operator, elastically, test_utils=checks)


def test_shapes_that_it_cannot_take_are_refused() -> None:
    weights, direction, step, _, _, *norms = (
        t.float() for t in draw(SHAPES[0], ("w0", "w1", "w2"))
    )
    run = commit.commit_operator
    with pytest.raises(ValueError, match="norms"):
        run(weights, direction, step, *commit._three(norms[::-1]))
    with pytest.raises(ValueError, match="norms"):
        run(weights, direction, step, *commit._three(norms[:2]))
    long = torch.ones(1, 1, 16, 8208)
    with pytest.raises(ValueError, match="8192 entries"):
        run(long, long, torch.ones(1), torch.ones(1, 16, 1), None, None)
