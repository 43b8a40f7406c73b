"""Update and read on a GPU: as near to float64 as the plain formulation in bfloat16 is.

Shapes: N = batch x heads, L tokens, D head width, F hidden width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everview.kernels.fast_weight import reference
from everview.kernels.fast_weight.reference import MATRICES, FastWeights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

# N, those that share W0 and W2, L, D, F: the benchmark's kinds, several blocks, ragged everything
SHAPES = [
    (1, 1, 4096, 768, 1536),
    (2, 2, 9000, 256, 512),
    (12, 12, 1000, 512, 512),
    (4, 1, 3072, 384, 768),
    (4, 2, 777, 176, 208),
    (3, 3, 33, 16, 32),
]
NAMES = ("sums", "read", "kv", "rates", "q", "w0", "w2", "w1")


def inputs(shape: tuple[int, int, int, int, int]) -> list[Tensor]:
    """packed_kv, rates, packed_q, w0, w2, w1t: tokens as bfloat16 holds them, all in float64."""
    n, shared, length, width, hidden = shape
    generator = torch.Generator("cuda").manual_seed(sum(shape))

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device="cuda")

    def low(x: Tensor) -> Tensor:
        return x.bfloat16().double()

    return [
        low(draw(n, length, 2 * width)),
        torch.rand(n, length, 3, generator=generator, device="cuda").double(),
        low(draw(n, length, width)),
        (draw(shared, width, hidden) / width**0.5).double(),
        (draw(shared, width, hidden) / width**0.5).double(),
        (draw(n, width, hidden) / hidden**0.5).double(),
    ]


def results(kernels, exact: list[Tensor], writes: tuple[str, ...], tokens: torch.dtype, rest):  # type: ignore[no-untyped-def]
    """Sums, read, and the gradients of a weighted sum of both by every input."""
    kinds = (tokens, rest, tokens, rest, rest, rest)
    leaves = [t.to(kind).requires_grad_() for t, kind in zip(exact, kinds, strict=True)]
    packed_kv, rates, packed_q, w0, w2, w1t = leaves
    weights = FastWeights(w0, w1t.mT, w2)
    outs = (
        kernels.fast_weight_gradient(weights, packed_kv, rates, writes),
        kernels.fast_weight_apply(weights, packed_q),
    )
    generator = torch.Generator("cuda").manual_seed(1)
    loss = sum(
        (out.double() * torch.randn(out.shape, generator=generator, device="cuda")).sum()
        for out in outs
    )
    return [*outs, *torch.autograd.grad(loss, leaves)]


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("writes", [MATRICES, ("w1",)], ids="+".join)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bfloat16_results_and_gradients_are_within_a_fifth_of_the_plain_formulations_error(
    shape: tuple[int, int, int, int, int], writes: tuple[str, ...]
) -> None:
    import everview.kernels.fast_weight as kernels

    exact = inputs(shape)
    true = results(reference, exact, writes, torch.float64, torch.float64)
    plain = results(reference, exact, writes, torch.bfloat16, torch.float32)
    ours = results(kernels, exact, writes, torch.bfloat16, torch.float32)
    for name, own, other, truth in zip(NAMES, ours, plain, true, strict=True):
        assert torch.isfinite(own).all(), name
        if truth.norm() == 0:
            assert own.norm() == 0, name
            continue
        assert error(own, truth) <= 1.2 * error(other, truth) + 1e-6, (
            name, error(own, truth), error(other, truth)
        )  # fmt: skip


def test_the_same_inputs_give_the_same_bits() -> None:
    import everview.kernels.fast_weight as kernels

    exact = inputs((2, 2, 9000, 256, 512))
    first, second = (
        results(kernels, exact, MATRICES, torch.bfloat16, torch.float32) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_graph_replays_update_and_read() -> None:
    from everview.kernels.fast_weight import fast_weight_apply, fast_weight_gradient

    packed_kv, rates, packed_q, w0, w2, w1t = inputs((2, 2, 9000, 256, 512))
    packed_kv, packed_q = packed_kv.bfloat16(), packed_q.bfloat16()
    weights = FastWeights(w0.float(), w1t.float().mT, w2.float())

    def run() -> tuple[Tensor, Tensor]:
        sums = fast_weight_gradient(weights, packed_kv, rates.float())
        return sums, fast_weight_apply(weights, packed_q)

    expected = run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@pytest.mark.parametrize("with_rates", [True, False])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[3] > 128], ids=str)
def test_the_form_for_hopper_makes_what_the_plain_kernel_makes(
    shape: tuple[int, int, int, int, int], with_rates: bool
) -> None:
    from everview.kernels.fast_weight import token_work

    packed_kv, rates, _, w0, w2, w1t = inputs(shape)
    keys, values = packed_kv.bfloat16().chunk(2, dim=-1)
    weights = token_work.Operands.of(keys, w0.float(), w2.float(), w1t.float())
    given = (keys, values, weights, rates.float() if with_rates else None)
    special = token_work.gradient_features(*given).wide.float().chunk(3, dim=-1)
    plain = token_work.gradient_features(*given, rate_sums=True).wide.float().chunk(3, dim=-1)
    for ours, other in zip(special, plain, strict=True):
        # gate and up are rounded once more on their way through shared memory
        assert (ours - other).abs().max() <= 2**-7 * other.abs().max()
