"""Every form of the Newton-Schulz kernels that can be chosen compiles for an H100, and fits it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everview.kernels.newton_schulz import launch, norms, plan, products
from everview.kernels.newton_schulz.operators import OPERANDS
from tests.kernels.compiling import (
    REGISTERS,
    SHARED_MEMORY,
    Launch,
    assert_products_are_on_tensor_cores,
    launches,
    resources,
)


def product(configuration: plan.Configuration) -> Launch:
    """The launch of a product as chain.py asks for it."""
    kind, tiles = configuration.kind, configuration.tiles
    x = launch.Stack(torch.zeros(2, 2, 144, 272, dtype=OPERANDS))
    s = launch.Stack(torch.zeros(3, 2, 144, 144, dtype=OPERANDS))
    wide = torch.float32 if configuration.wide_result else OPERANDS
    target = launch.Stack(torch.zeros(1, 2, 144, 272, dtype=wide))[0]

    def run() -> None:
        if kind in ("gram", "pair"):
            launch.symmetric_product(kind, x[0], x[kind == "pair"], s[2], tiles=tiles)
        elif kind in ("square", "mixed"):
            other = s[kind == "mixed"]
            launch.symmetric_product(kind, s[0], other, s[2], 0.5, 2.0, 3.0, s[0], tiles=tiles)
        else:
            more = (s[1], x[1]) if kind == "fold" else None
            launch.general_product(kind, s[0], x[0], target, more, tiles)

    (found,) = launches(run, products)
    return found


@pytest.mark.parametrize("configuration", plan.configurations(), ids=str)
def test_a_product_runs_on_tensor_cores_from_shared_memory_without_spills(
    configuration: plan.Configuration,
) -> None:
    found, resident = product(configuration), configuration.tiles.resident
    kernel = found.compiled()
    assert_products_are_on_tensor_cores(kernel)
    registers, stack = resources(kernel)
    assert stack == 0
    assert resident * (kernel.metadata.shared + 1024) <= SHARED_MEMORY
    assert resident * registers * found.threads <= REGISTERS


def matrices(dtype: torch.dtype, transposed: bool) -> Tensor:
    found = torch.zeros(2, 144, 272, dtype=dtype)
    return found.mT.contiguous().mT if transposed else found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
def test_norms_and_casts_compile_without_spills(dtype: torch.dtype, transposed: bool) -> None:
    given, unit = matrices(dtype, transposed), matrices(OPERANDS, False)
    norm = torch.ones(2)

    def run() -> None:
        launch.normalise(given, unit, 1e-7)
        last = matrices(torch.float32, False)
        launch.through_norm(last, unit, norm, norm, torch.empty_like(given), 1e-7)

    found = launches(run, norms)
    assert {"block_products", "normalise", "through_norm"} == {one.name for one in found}
    assert [resources(one.compiled())[1] for one in found] == [0] * len(found)
