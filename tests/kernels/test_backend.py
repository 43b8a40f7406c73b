"""Every kernel says what serves it, once."""

from __future__ import annotations

import logging

import pytest
import torch

from everview.kernels import backend


def test_every_kernel_names_its_backend_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend._announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="everview.kernels"):
        first, second = backend.backends_in_use(), backend.backends_in_use()
    assert first == second
    assert {"newton_schulz", "fast_weight_gradient", "fast_weight_apply"} <= set(first)
    assert len(caplog.records) == 1
    first.clear()
    assert backend.backends_in_use() == second


@pytest.mark.parametrize(("units", "expected"), [(True, torch.bfloat16), (False, None)])
def test_queries_multiply_in_bfloat16_only_where_the_processor_has_units_for_it(
    units: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    backend.reading_products.cache_clear()
    try:
        cpu = torch.device("cpu")
        assert backend.reading_products(cpu) is expected
        named = backend.backends_in_use(cpu)["query_products"]
        assert named == ("bfloat16" if units else "float32")
    finally:
        backend.reading_products.cache_clear()
