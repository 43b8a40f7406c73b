"""What the dispatchers of update and read hand to their kernels."""

from __future__ import annotations

import pytest
import torch

from everview.kernels.fast_weight import (
    FastWeights,
    dispatch,
    fast_weight_apply,
    fast_weight_gradient,
    operators,
)


def test_kernels_get_gapless_rows_and_matrices_of_one_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, tuple] = {}
    monkeypatch.setattr(dispatch, "_by_triton", lambda *_: True)
    for name in ("gradient", "apply"):
        monkeypatch.setattr(operators, name, lambda *a, name=name: given.update({name: a}))
    w0 = torch.zeros(1, 16, 32)
    weights = FastWeights(w0, w0.mT.bfloat16(), w0)
    packed_kv = torch.randn(2, 32, 5).mT.bfloat16()
    rates = torch.rand(2, 3, 5).mT
    fast_weight_gradient(weights, packed_kv, rates)
    fast_weight_apply(weights, packed_kv[..., :16])
    for matrices, tokens, *_ in given.values():
        assert {weight.dtype for weight in matrices} == {torch.float32}
        assert tokens.stride(-1) == 1
    assert given["gradient"][2].stride(-1) == 1
    assert torch.equal(given["gradient"][1], packed_kv)
    assert torch.equal(given["gradient"][2], rates)


def test_rows_that_lie_apart_are_not_copied() -> None:
    wide = torch.zeros(2, 5, 48)
    part = wide[..., 16:]
    assert dispatch._rows(part).data_ptr() == part.data_ptr()


def test_nothing_asks_for_triton_without_tokens_or_a_gpu() -> None:
    w0 = torch.zeros(1, 16, 32)
    weights = FastWeights(w0, w0.mT, w0)
    assert not dispatch._by_triton("fast_weight_apply", weights, torch.zeros(2, 5, 16))
    sums = fast_weight_gradient(weights, torch.zeros(2, 0, 32), torch.zeros(2, 0, 3))
    assert sums.shape == (2, 3, 16, 32)
    assert not sums.any()
