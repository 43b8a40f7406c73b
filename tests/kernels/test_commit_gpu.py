"""The commit on a GPU: as near to float64 as plain float32 is, bit for bit where that is promised.

Shapes: N = batch x heads, H heads, M written matrices, D head width, F hidden width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everview.kernels.fast_weight import commit, elastic, reference
from everview.kernels.fast_weight.elastic import ElasticRule, ElasticState
from everview.kernels.fast_weight.reference import written

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

# N, H, D, F, what is written: the benchmark's and the recipes' kinds, then ragged and long ones
CASES = [
    (1, 1, 768, 1536, ("w0", "w1", "w2")),
    (12, 12, 512, 512, ("w0", "w1", "w2")),
    (16, 1, 384, 768, ("w1",)),
    (4, 2, 176, 208, ("w0", "w1", "w2")),
    (2, 1, 80, 3088, ("w2", "w1")),
    (2, 2, 2064, 48, ("w0", "w2")),
    (3, 3, 16, 16, ("w1",)),
]
RULES = [
    None,
    ElasticRule("mas", "fixed", pull=0.4, decay=0.2),
    ElasticRule("ewc", "streaming", pull=0.7, decay=0.6),
    ElasticRule("si", "ema", pull=0.5, decay=0.5, beta=0.8),
]


def draw(case, direction_type: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """weights, direction, step, anchor, importance, norms: float32 but for the direction."""
    n, heads, width, hidden, writes = case
    generator = torch.Generator("cuda").manual_seed(n + width)
    packed = (n, len(writes), width, hidden)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device="cuda")

    weights, direction, anchor = (normal(*packed) / width**0.5 for _ in range(3))
    step = torch.linspace(0.3, 1.0, n, device="cuda")
    initial = normal(heads, *packed[1:])
    norms = [
        initial[:, m].norm(dim=-1 if name == "w1" else -2, keepdim=True)
        for m, name in enumerate(written(writes))
    ]
    return [weights, direction.to(direction_type), step, anchor, normal(*packed).abs(), *norms]


def run(tensors: list[Tensor], rule: ElasticRule | None, by_reference: bool) -> list[Tensor]:
    """Weights, their gradients by weights, direction, step and norms, then the state if any."""
    weights, direction, step, anchor, importance, *norms = tensors
    leaves = [t.detach().clone().requires_grad_() for t in (weights, direction, step, *norms)]
    w, d, s, *target = leaves
    state = ElasticState(anchor, importance)
    kept: tuple[Tensor, ...] = ()
    if rule is None:
        plain = reference.fast_weight_commit if by_reference else commit.fast_weight_commit
        moved = plain(w, d, s, target)
    else:
        pulled = elastic.elastic_commit if by_reference else commit.elastic_commit
        moved, kept = pulled(w, d, s, target, rule, state)
    generator = torch.Generator("cuda").manual_seed(3)
    by = torch.randn(moved.shape, generator=generator, device="cuda").to(moved.dtype)
    gradients = torch.autograd.grad(moved, leaves, by)
    return [moved.detach(), *gradients, *kept]


def distance(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right).norm() / right.norm().clamp_min(1e-30))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.score if rule else "plain")
def test_it_is_as_near_to_float64_as_plain_float32(case, rule) -> None:
    tensors = draw(case)
    right = run([t.double() for t in tensors], rule, by_reference=True)
    plain = run(tensors, rule, by_reference=True)
    found = run(tensors, rule, by_reference=False)
    assert len(found) == len(right)
    for index, (mine, theirs, truth) in enumerate(zip(found, plain, right, strict=True)):
        assert mine.dtype == theirs.dtype
        limit = 1.2 * distance(theirs, truth) + 1e-5  # one number may be lucky
        assert distance(mine, truth) <= limit, index


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.score if rule else "plain")
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
def test_step_zero_keeps_every_bit_whatever_the_direction(rule, kind: torch.dtype) -> None:
    tensors = draw((4, 2, 176, 208, ("w0", "w1", "w2")), kind)
    weights, direction, step, anchor, importance, *norms = tensors
    direction[1], direction[2], step[1:3] = torch.nan, torch.inf, 0
    found = run(tensors, rule, by_reference=False)
    assert all(torch.isfinite(t).all() for t in found)
    kept = (found[0], *found[4 + len(norms) :])
    for after, before in zip(kept, (weights, anchor, importance), strict=False):
        assert torch.equal(after[1:3], before[1:3])
    assert not torch.equal(found[0][0], weights[0])
    assert not found[2][1:3].any()
    assert not found[3][1:3].any()


def test_without_pull_it_is_the_plain_commit_bit_for_bit() -> None:
    tensors = draw(CASES[0])
    free = run(tensors, ElasticRule("si", "ema", 0.0, 0.5, 0.5), by_reference=False)
    assert torch.equal(run(tensors, None, by_reference=False)[0], free[0])


@pytest.mark.parametrize("rule", [RULES[0], RULES[-1]], ids=["plain", "elastic"])
def test_the_same_inputs_give_the_same_bits(rule) -> None:
    tensors = draw(CASES[1])
    first, again = (run(tensors, rule, by_reference=False) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_cuda_graph_holds_it() -> None:
    weights, direction, step, anchor, importance, *norms = draw(CASES[3])
    state = ElasticState(anchor, importance)

    def commits() -> tuple[Tensor, ElasticState]:
        return commit.elastic_commit(weights, direction, step, norms, RULES[-1], state)

    expected, kept = commits()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        commits()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, after = commits()
    graph.replay()
    assert torch.equal(captured, expected)
    assert torch.equal(after.anchor, kept.anchor)
    assert torch.equal(after.importance, kept.importance)


def test_operators_keep_their_promises_to_the_compiler() -> None:
    weights, direction, step, anchor, importance, *norms = draw(CASES[3])
    leaves = [t.requires_grad_() for t in (weights, direction, step, *norms)]
    arguments = (*leaves[:3], *commit._three(leaves[3:]))
    torch.library.opcheck(commit.commit_operator, arguments)
    for rule in RULES[1:]:
        elastically = (*arguments, anchor, importance, *commit._numbers(rule))
        torch.library.opcheck(commit.elastic_operator, elastically)
