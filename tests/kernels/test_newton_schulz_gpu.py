"""The Triton Newton-Schulz on a GPU: its error beside the plain bf16 formulation's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everview.kernels.newton_schulz import newton_schulz, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0),
        reason="needs a CUDA GPU of sm_90 or later",
    ),
]

SHAPES = [
    (3, 768, 1536),
    (12, 768, 1536),
    (10, 768, 1536),
    (36, 512, 512),
    (1, 384, 768),
    (16, 384, 768),
    (160, 256, 512),
    (2, 48, 80),
    (5, 176, 208),
    (2, 512, 256),
    (3, 16, 16),
]
NOT_WORSE = 1.2


def random(shape: tuple[int, ...], seed: int = 0, decay: bool = False) -> Tensor:
    """Gaussian float32 matrices, or with decay such of singular values near 1, 1/2, 1/3, ..."""
    generator = torch.Generator("cuda").manual_seed(seed)
    matrices = torch.randn(shape, generator=generator, device="cuda")
    if decay:
        n, rows, columns = shape
        left = torch.linalg.qr(torch.randn(n, rows, rows, generator=generator, device="cuda"))[0]
        matrices = left / torch.arange(1, rows + 1, device="cuda") @ matrices
        matrices /= columns**0.5
    return matrices


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("decay", [False, True], ids=["gaussian", "decaying"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_error_is_not_above_the_plain_bf16_formulations(
    shape: tuple[int, int, int], decay: bool
) -> None:
    matrices = random(shape, decay=decay)
    exact = reference.newton_schulz(matrices.double(), compute_dtype=torch.float64)
    plain = distance(reference.newton_schulz(matrices), exact)
    found = distance(newton_schulz(matrices), exact)
    print(f"{shape} decay={decay}: {found:.5f}, plain bf16 {plain:.5f}, ratio {found / plain:.3f}")
    assert found <= NOT_WORSE * plain


@pytest.mark.parametrize("scale", [1e-6, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_gradients_error_is_not_above_the_plain_bf16_formulations(
    shape: tuple[int, int, int], scale: float
) -> None:
    gradient = scale * random(shape, seed=1)

    def slope(function, matrices: Tensor, **options: torch.dtype) -> Tensor:  # type: ignore[no-untyped-def]
        matrices = matrices.requires_grad_()
        function(matrices, **options).backward(gradient.to(matrices.dtype))
        assert matrices.grad is not None
        return matrices.grad

    exact = slope(reference.newton_schulz, random(shape).double(), compute_dtype=torch.float64)
    plain = distance(slope(reference.newton_schulz, random(shape)), exact)
    found = distance(slope(newton_schulz, random(shape)), exact)
    print(f"{shape} scale={scale}: {found:.5f}, plain bf16 {plain:.5f}, ratio {found / plain:.3f}")
    assert found <= NOT_WORSE * plain


def test_transposed_views_and_other_types_give_what_their_copies_give() -> None:
    matrices = random((3, 256, 128))
    expected = newton_schulz(matrices)
    assert torch.equal(newton_schulz(matrices.mT).mT, expected)
    # the norm is summed in another order there
    copied = newton_schulz(matrices.mT.contiguous().mT)
    assert distance(copied, expected.double()) < 0.03
    low = newton_schulz(matrices.bfloat16(), dtype=torch.float32)
    assert low.dtype == torch.float32
    assert newton_schulz(matrices, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(newton_schulz(matrices, dtype=torch.bfloat16), expected.bfloat16())
    assert distance(low, expected.double()) < 0.05


def test_the_same_input_gives_the_same_bits_also_from_a_captured_graph() -> None:
    matrices = random((3, 768, 1536))
    expected = newton_schulz(matrices).clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = newton_schulz(matrices)
    captured.zero_()
    for _ in range(3):
        graph.replay()
        assert torch.equal(captured, expected)


def test_a_compiled_function_holds_it_whole_with_its_backward() -> None:
    def loss(matrices: Tensor) -> Tensor:
        return (newton_schulz(2 * matrices) ** 3).sum()

    matrices = random((2, 64, 96)).requires_grad_()
    (expected,) = torch.autograd.grad(loss(matrices), matrices)
    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(matrices), matrices)
    assert distance(found, expected.double()) < 0.01


def test_a_side_that_is_no_multiple_of_sixteen_takes_the_reference() -> None:
    matrices = random((2, 24, 40))
    assert torch.equal(newton_schulz(matrices), reference.newton_schulz(matrices))
