"""Every kernel says what serves it, once."""

from __future__ import annotations

import logging

import pytest

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
