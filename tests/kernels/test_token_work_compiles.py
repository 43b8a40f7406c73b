"""Every form of the token kernels that update and read can launch compiles for an H100."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from everview.kernels.fast_weight import gradient_gluon, operators, swiglu_kernels
from tests.kernels.compiling import (
    REGISTERS,
    SHARED_MEMORY,
    Launch,
    assert_products_are_on_tensor_cores,
    launches,
    resources,
)

# N, matrices that N share, L, D, F: round and ragged ones
SHAPES = [(1, 1, 128, 768, 1536), (4, 2, 70, 48, 144)]
PRODUCTS = {"hidden_kernel", "gradient_kernel", "specialised_gradient_kernel"}
MODULES = (swiglu_kernels, gradient_gluon)
KERNELS = {name for module in MODULES for name in vars(module) if name.endswith("_kernel")}
compiled = cache(Launch.compiled)


def calls(shape: tuple[int, int, int, int, int]) -> dict[str, Callable[[], object]]:
    """The operators, forward and backward, by name."""
    n, shared, length, width, hidden = shape
    low = {"dtype": torch.bfloat16}
    packed_kv, packed_q = torch.zeros(n, length, 2 * width, **low), torch.zeros(n, length, width)
    packed_q = packed_q.bfloat16()
    rates = torch.zeros(n, length, 3)
    w0, w2, w1t = torch.zeros(3, shared, width, hidden)
    sums = torch.zeros(n, 3, width, hidden)
    return {
        "read": lambda: operators.apply_operator(packed_q, w0, w2, w1t),
        "read, backward": lambda: operators.apply_backward_operator(
            packed_q, packed_q, w0, w2, w1t
        ),
        "three sums": lambda: operators.gradient_operator(packed_kv, rates, w0, w2, w1t),
        "three sums, backward": lambda: operators.gradient_backward_operator(
            sums, packed_kv, rates, w0, w2, w1t
        ),
        "w1's sum": lambda: operators.gradient_operator(packed_kv, rates, w0, w2, None),
        "w1's sum, backward": lambda: operators.down_backward_operator(
            sums[:, :1], packed_kv, rates, w0, w2
        ),
    }


@pytest.mark.parametrize("call", calls(SHAPES[1]))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_call_launches_what_fits_an_h100(
    shape: tuple[int, int, int, int, int], call: str
) -> None:
    found = launches(calls(shape)[call], *MODULES)
    assert found
    for launch in found:
        kernel: Any = compiled(launch)
        assert kernel.metadata.shared <= SHARED_MEMORY
        assert resources(kernel)[0] * launch.threads <= REGISTERS
        if launch.name in PRODUCTS:
            assert_products_are_on_tensor_cores(kernel)


def test_the_calls_cover_every_kernel_and_every_use_of_the_rates() -> None:
    found = [
        launch
        for shape in SHAPES
        for call in calls(shape).values()
        for launch in launches(call, *MODULES)
    ]
    assert {launch.name for launch in found} == KERNELS
    of_hidden = {f.constant("RATE") for f in found if f.name == "hidden_kernel"}
    assert of_hidden == {-1, 1}
    names = ("RATE0", "RATE1", "RATE2", "SUMS")
    gradients = [f for f in found if f.name == "gradient_kernel"]
    of_gradient = {tuple(f.constant(name) for name in names) for f in gradients}
    assert of_gradient == {(0, 1, 2, False), (1, 1, 1, True), (-1, -1, -1, False)}
    specialised = [f for f in found if f.name == "specialised_gradient_kernel"]
    assert {tuple(f.constant(name) for name in names[:3]) for f in specialised} == {
        (0, 1, 2),
        (-1, -1, -1),
    }
