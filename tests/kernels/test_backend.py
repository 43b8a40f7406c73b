"""Every kernel says what serves it, once, and says so where it can't."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from everview.kernels import backend
from everview.kernels.fast_weight import FastWeights, commit, dispatch
from everview.kernels.newton_schulz import dispatch as newton_schulz

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
CACHED = (
    backend._announce, backend._warn_once, backend._what_is_missing, backend.reading_products,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    for function in CACHED:
        function.cache_clear()
    yield
    for function in CACHED:
        function.cache_clear()


def pretend_card(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], shared_kib: int = 227
) -> None:
    properties = SimpleNamespace(shared_memory_per_block_optin=shared_kib << 10)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _=None: properties)


def test_on_a_cpu_the_reference_serves_every_kernel_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="everview.kernels"):
        first, second = backend.backends_in_use(CPU), backend.backends_in_use(CPU)
    assert first == second
    del first["query_products"]
    assert set(first.values()) == {backend.REFERENCE}
    assert {"newton_schulz", "fast_weight_gradient", "fast_weight_apply"} <= set(first)
    assert [record.getMessage() for record in caplog.records] == [
        "kernels on cpu: all by torch reference"
    ]


def test_on_an_h100_triton_serves_what_it_has_kernels_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_card(monkeypatch, (9, 0))
    with caplog.at_level(logging.INFO, logger="everview.kernels"):
        served = backend.backends_in_use()
        backend.backends_in_use()
    assert served["rms_norm"] == backend.REFERENCE
    assert all(served[kernel].startswith("triton (") for kernel in backend.BY_TRITON)
    assert served["query_products"] == "bfloat16"
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("capability", "shared_kib", "reason"),
    [((8, 0), 163, "no tensor memory access"), ((12, 0), 99, "99 KiB of shared memory")],
)
def test_a_gpu_without_kernels_is_said_once_with_the_reason(
    capability: tuple[int, int],
    shared_kib: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pretend_card(monkeypatch, capability, shared_kib)
    assert not backend.by_triton("newton_schulz", GPU)
    assert not backend.by_triton("fast_weight_apply", GPU)
    assert backend.backends_in_use(GPU)["newton_schulz"] == backend.REFERENCE
    (record,) = (r for r in caplog.records if r.levelno == logging.WARNING)
    assert reason in record.getMessage()


def test_without_triton_the_reference_serves_a_gpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_card(monkeypatch, (9, 0))
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    assert not backend.triton_serves(GPU)
    assert "triton isn't installed" in caplog.text


def test_a_call_that_triton_cannot_take_is_said_once_for_each_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_card(monkeypatch, (9, 0))
    assert backend.by_triton("fast_weight_apply", GPU)
    for reason in ("widths 24 and 48", "widths 24 and 48", "float32 tokens"):
        assert not backend.by_triton("fast_weight_apply", GPU, reason)
    assert [record.getMessage() for record in caplog.records] == [
        "fast_weight_apply: torch reference (widths 24 and 48)",
        "fast_weight_apply: torch reference (float32 tokens)",
    ]
    assert not backend.by_triton("fast_weight_apply", CPU, "on a CPU nothing falls back")
    assert len(caplog.records) == 2


def test_each_dispatcher_says_which_inputs_its_kernel_does_not_take() -> None:
    def weights(width: int, hidden: int) -> FastWeights:
        w0, w1 = torch.zeros(1, width, hidden), torch.zeros(1, hidden, width)
        return FastWeights(w0, w1, w0)

    low = torch.zeros(1, 4, 16).bfloat16()
    assert dispatch._refused(weights(16, 48), low) == ""
    assert "torch.float32 tokens" in dispatch._refused(weights(16, 48), low.float())
    assert "24" in dispatch._refused(weights(16, 24), low)
    assert newton_schulz._refused(torch.zeros(1, 16, 48)) == ""
    assert "16 x 40" in newton_schulz._refused(torch.zeros(1, 16, 40))
    assert "float64" in newton_schulz._refused(torch.zeros(1, 16, 48).double())
    assert commit._refused(torch.zeros(1, 3, 16, 8192)) == ""
    assert "8208 entries" in commit._refused(torch.zeros(1, 1, 16, 8208))
    assert "float64" in commit._refused(torch.zeros(1, 3, 16, 48).double())


def test_a_fallback_is_said_while_a_graph_is_traced_and_does_not_break_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backend, "_what_is_missing", lambda device: "")

    @torch.compile(backend="eager", fullgraph=True)
    def doubled(x: torch.Tensor) -> torch.Tensor:
        refused = f"{x.dtype} tokens of {x.shape[1]}"
        return x if backend.by_triton("fast_weight_apply", GPU, refused) else 2 * x

    assert torch.equal(doubled(torch.ones(2, 3)), torch.full((2, 3), 2.0))
    torch._dynamo.reset()
    said = [r.getMessage() for r in caplog.records if r.name == backend.log.name]
    assert said == ["fast_weight_apply: torch reference (torch.float32 tokens of 3)"]


def test_nothing_needs_triton_or_loads_the_compiler_where_the_reference_serves() -> None:
    """torch's compiler takes seconds to import, in every rank, worker and command."""
    code = """
import sys
sys.modules["triton"] = None  # an import of it raises ImportError
import torch
from everview.kernels.backend import backends_in_use
from everview.kernels.fast_weight import (
    FastWeights, fast_weight_apply, fast_weight_commit, fast_weight_direction,
    fast_weight_gradient, initial_norms, pack, unpack,
)
weights = FastWeights(*(torch.randn(2, a, b) for a, b in ((16, 32), (32, 16), (16, 32))))
sums = fast_weight_gradient(weights, torch.randn(2, 5, 32), torch.rand(2, 5, 3))
step, norms = torch.ones(2), initial_norms(weights)
moved = fast_weight_commit(pack(weights), fast_weight_direction(sums), step, norms)
assert fast_weight_apply(unpack(moved), torch.randn(2, 5, 16)).isfinite().all()
assert backends_in_use(torch.device("cpu"))["newton_schulz"] == "torch reference"
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("units", "expected"), [(True, torch.bfloat16), (False, None)])
def test_queries_multiply_in_bfloat16_only_where_the_processor_has_units_for_it(
    units: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    assert backend.reading_products(CPU) is expected
    named = backend.backends_in_use(CPU)["query_products"]
    assert named == ("bfloat16" if units else "float32")
