"""Every form of the commit's kernels compiles for an H100 without keeping registers in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from everview.kernels.fast_weight import commit_kernels, commit_launch
from everview.kernels.fast_weight.commit import LONGEST
from everview.kernels.fast_weight.commit_launch import Blocks, block_constants, blocks_for
from everview.kernels.fast_weight.elastic import ElasticRule, ElasticState
from tests.kernels.compiling import REGISTERS, launches, resources

# width, hidden, heads, column matrices, row matrices, score, follow, direction
FORMS = [
    (768, 1536, 1, 2, 1, "", "fixed", torch.bfloat16),
    (768, 1536, 1, 2, 1, "si", "ema", torch.bfloat16),
    (512, 512, 12, 2, 1, "", "fixed", torch.float32),
    (512, 512, 12, 2, 1, "si", "ema", torch.bfloat16),
    (384, 768, 1, 0, 1, "mas", "fixed", torch.bfloat16),
    (80, 144, 3, 1, 1, "ewc", "streaming", torch.float32),
    (16, 16, 1, 2, 0, "mas", "ema", torch.bfloat16),
]
STACK = {"commit_kernel": 0, "backward_kernel": 160}
"""Bytes of a thread's registers in memory, at most; those of the elastic backward stay in the L1
cache."""


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_it_compiles_for_an_h100(backward: bool, form: tuple[Any, ...]) -> None:
    width, hidden, heads, columns, rows, score, follow, direction_type = form
    weights = torch.zeros(heads, columns + rows, width, hidden)
    norms = [torch.ones(heads, 1, hidden)] * columns + [torch.ones(heads, width, 1)] * rows
    rule = ElasticRule(score, follow, 0.5, 0.5, 0.5) if score else None
    state = ElasticState(weights, weights) if score else None
    inputs = (weights, weights.to(direction_type), torch.ones(heads), norms, rule, state)

    def run() -> None:
        if backward:
            commit_launch.backward(weights, *inputs)
        else:
            commit_launch.forward(*inputs)

    (launch,) = launches(run, commit_kernels)
    kernel = launch.compiled()
    assert ".target sm_90a" in kernel.asm["ptx"]
    registers, stack = resources(kernel)
    assert registers * launch.threads <= REGISTERS
    assert stack <= STACK[launch.name]
    assert "ld.global.v4" in kernel.asm["ptx"]
    assert "st.global.v4" in kernel.asm["ptx"]


@pytest.mark.parametrize("width", [16, 80, 384, 512, 768, 1040, LONGEST])
@pytest.mark.parametrize("hidden", [16, 208, 512, 1536, LONGEST])
def test_blocks_hold_whole_vectors_in_few_chunks(width: int, hidden: int) -> None:
    blocks = blocks_for(width, hidden)
    assert isinstance(blocks, Blocks)
    constants = block_constants(blocks, width, hidden)
    for size, kind in ((width, "COLUMN"), (hidden, "ROW")):
        chunks, entries = constants[f"{kind}_CHUNKS"], constants[f"{kind}_ENTRIES"]
        assert (chunks - 1) * entries < size <= chunks * entries
        assert chunks <= 4
    for number in (blocks.columns, blocks.column_entries, blocks.rows, blocks.row_entries):
        assert number & (number - 1) == 0
    assert blocks.columns * 4 >= 32  # a sector of float32
    assert 4 <= blocks.warps <= 32
