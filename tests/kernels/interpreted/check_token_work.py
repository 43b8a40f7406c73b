"""Update and read as Triton computes them against the reference, in the interpreter (float32).

Shapes: N = batch x heads, L tokens, D head width, F hidden width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everview.kernels.fast_weight import operators, reference, token_work
from everview.kernels.fast_weight.reference import MATRICES, FastWeights

# ragged against every tile: tokens, width and hidden width
SHAPES = [(1, 20, 16, 48), (2, 18, 48, 144)]
CASES = [
    *((SHAPES[0], writes) for writes in (MATRICES, ("w1",), ("w0", "w1"))),
    *((SHAPES[1], writes) for writes in (MATRICES, ("w1",))),
]
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


def draw(shape: tuple[int, int, int, int], shared: int, dtype: torch.dtype) -> list[Tensor]:
    """packed_kv, rates, packed_q, w0, w2, w1t."""
    n, length, width, hidden = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    tensors = [
        normal(n, length, 2 * width),
        torch.rand(n, length, 3, generator=generator, dtype=torch.float64),
        normal(n, length, width),
        normal(shared, width, hidden) / width**0.5,
        normal(shared, width, hidden) / width**0.5,
        normal(n, width, hidden) / hidden**0.5,
    ]
    return [t.to(dtype).requires_grad_() for t in tensors]


def by_reference(tensors: list[Tensor], writes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    packed_kv, rates, packed_q, w0, w2, w1t = tensors
    weights = FastWeights(w0, w1t.mT, w2)
    sums = reference.fast_weight_gradient(weights, packed_kv, rates, writes)
    return sums, reference.fast_weight_apply(weights, packed_q)


def by_kernels(tensors: list[Tensor], writes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    packed_kv, rates, packed_q, w0, w2, w1t = tensors
    weights = FastWeights(w0, w1t.mT, w2)
    sums = operators.gradient(weights, packed_kv, rates, writes)
    return sums, operators.apply(weights, packed_q)


def with_gradients(results: tuple[Tensor, Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """Results, then the gradients of a weighted sum of them by every input."""
    generator = torch.Generator().manual_seed(9)
    loss = sum(
        (r * torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r)).sum()
        for r in results
    )
    return [*results, *torch.autograd.grad(loss, tensors)]


@pytest.mark.parametrize(("shape", "writes"), CASES, ids=str)
def test_sums_reads_and_every_gradient_equal_the_references(
    shape: tuple[int, int, int, int], writes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_work, "TOKEN_BLOCK", 16)  # several blocks, the last one ragged
    for shared in {1, shape[0]}:
        exact = draw(shape, shared, torch.float64)
        single = draw(shape, shared, torch.float32)
        expected = with_gradients(by_reference(exact, writes), exact)
        found = with_gradients(by_kernels(single, writes), single)
        for name, left, right in zip(
            ("sums", "read", "kv", "rates", "q", "w0", "w2", "w1"), found, expected, strict=True
        ):
            torch.testing.assert_close(
                left.double(), right, **CLOSE, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.parametrize(("own", "shared"), [(3, 4), (4, 3)], ids=["w0 alone", "w2 alone"])
def test_one_matrix_of_its_own_beside_a_shared_one(own: int, shared: int) -> None:
    """A layer that writes w0 or w2 alone holds one of them a scene and one for all."""
    results = []
    for dtype, run in ((torch.float64, by_reference), (torch.float32, by_kernels)):
        tensors = draw((2, 10, 16, 32), 2, dtype)
        tensors[shared] = tensors[shared][:1].detach().requires_grad_()
        results.append(with_gradients(run(tensors, MATRICES), tensors))
    for left, right in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(left.double(), right, **CLOSE)


def test_what_does_not_fit_is_refused() -> None:
    packed_kv, rates, packed_q, w0, w2, w1t = draw((2, 20, 16, 32), 1, torch.float32)
    weights = FastWeights(w0, w1t.mT, w2)
    with pytest.raises(ValueError, match="don't fit"):
        operators.apply(weights, packed_q.repeat(1, 1, 2))
    with pytest.raises(ValueError, match="don't fit"):
        operators.gradient(weights, packed_kv.repeat(1, 1, 2), rates, MATRICES)
    with pytest.raises(ValueError, match="rates"):
        operators.gradient(weights, packed_kv, rates[:, :-1], MATRICES)


def test_heads_share_frozen_matrices_over_the_batch() -> None:
    exact, single = (draw((4, 6, 16, 32), 2, kind) for kind in (torch.float64, torch.float32))
    expected = with_gradients(by_reference(exact, ("w1",)), exact)
    found = with_gradients(by_kernels(single, ("w1",)), single)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left.double(), right, **CLOSE)


def test_strided_tokens_are_read_where_they_lie() -> None:
    exact, single = (draw((2, 20, 16, 32), 2, kind) for kind in (torch.float64, torch.float32))
    cut = [t[:, 3:18:2] if index < 3 else t for index, t in enumerate(single)]
    same = [t[:, 3:18:2].contiguous() if index < 3 else t for index, t in enumerate(exact)]
    for left, right in zip(by_kernels(cut, MATRICES), by_reference(same, MATRICES), strict=True):
        torch.testing.assert_close(left.double(), right, **CLOSE)


def test_a_width_that_is_no_multiple_of_16_is_refused() -> None:
    tensors = draw((1, 20, 24, 32), 1, torch.float32)
    with pytest.raises(ValueError, match="multiples of 16"):
        by_kernels(tensors, MATRICES)
