"""The two-pass RMS norm is torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from everview.kernels.rms_norm import rms_normalise


@pytest.mark.parametrize("shape", [(1, 8), (5, 3, 16), (0, 4)], ids=str)
def test_it_equals_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, gain = torch.randn(shape, dtype=torch.float64), torch.randn(shape[-1], dtype=torch.float64)
    expected = functional.rms_norm(x, gain.shape, gain, 1e-5)
    torch.testing.assert_close(rms_normalise(x, gain, 1e-5), expected, rtol=1e-12, atol=1e-12)


def test_gains_may_differ_along_another_axis() -> None:
    torch.manual_seed(0)
    x, gains = torch.randn(7, 2, 3, 4), torch.randn(2, 1, 4)
    for index in range(2):
        expected = functional.rms_norm(x[:, index], (4,), gains[index, 0], 1e-6)
        torch.testing.assert_close(rms_normalise(x, gains, 1e-6)[:, index], expected)


def test_half_precision_is_summed_in_float32_and_stays_wide() -> None:
    x = 300 * torch.ones(1, 4096, dtype=torch.bfloat16)
    result = rms_normalise(x, torch.ones(4096), 0.0)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, torch.ones(1, 4096), rtol=1e-5, atol=0)


def test_it_passes_gradcheck() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, gain: rms_normalise(x, gain, 1e-5), (x, gain))


def test_a_row_of_zeros_has_a_finite_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    rms_normalise(x, torch.ones(4), 1e-5).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
