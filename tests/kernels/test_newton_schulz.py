"""Newton-Schulz against the polar factor that an SVD gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everview.kernels.newton_schulz import newton_schulz


def conditioned(*shape: int, smallest: float = 0.05) -> Tensor:
    """Random float64 matrices whose singular values lie between `smallest` and 1 of the largest."""
    generator = torch.Generator().manual_seed(11)
    left, values, right = torch.linalg.svd(
        torch.randn(*shape, generator=generator, dtype=torch.float64), full_matrices=False
    )
    return left * torch.linspace(1, smallest, values.shape[-1], dtype=torch.float64) @ right


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 12, 40), (3, 40, 12)], ids=str)
def test_the_result_keeps_singular_vectors_and_brings_values_near_one(
    shape: tuple[int, int, int],
) -> None:
    matrices = conditioned(*shape)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    # the matrix in the input's own singular bases: diagonal when the vectors are the same
    turned = left.mT @ newton_schulz(matrices) @ right.mT
    values = torch.diagonal(turned, dim1=-2, dim2=-1)
    torch.testing.assert_close(turned, torch.diag_embed(values), rtol=0, atol=1e-10)
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_a_batch_gives_what_its_matrices_give_alone() -> None:
    matrices = conditioned(4, 10, 18)
    alone = torch.cat([newton_schulz(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(newton_schulz(matrices), alone, rtol=1e-12, atol=1e-12)


def test_a_transposed_matrix_gives_the_transposed_result() -> None:
    matrices = conditioned(2, 10, 18)
    transposed = newton_schulz(matrices.mT)
    torch.testing.assert_close(transposed, newton_schulz(matrices).mT, rtol=1e-12, atol=1e-12)


def test_the_size_of_the_matrix_does_not_matter() -> None:
    matrices = conditioned(2, 10, 18)
    result = newton_schulz(1e6 * matrices)
    torch.testing.assert_close(result, newton_schulz(matrices), rtol=1e-6, atol=1e-6)


def test_nothing_written_gives_no_direction() -> None:
    assert torch.equal(newton_schulz(torch.zeros(1, 8, 8)), torch.zeros(1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_and_dtype_are_the_inputs(dtype: torch.dtype) -> None:
    result = newton_schulz(conditioned(2, 6, 9).to(dtype))
    assert (result.shape, result.dtype) == ((2, 6, 9), dtype)


def test_autocast_leaves_the_iteration_alone() -> None:
    matrices = conditioned(1, 12, 20).float()
    expected = newton_schulz(matrices)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(newton_schulz(matrices), expected)


def test_it_passes_gradcheck() -> None:
    matrices = conditioned(2, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(newton_schulz, (matrices, 3))


def test_other_shapes_and_no_steps_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"expected \[N, R, C\]"):
        newton_schulz(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="at least 1"):
        newton_schulz(torch.zeros(1, 3, 4), steps=0)
