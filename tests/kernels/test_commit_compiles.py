"""Every form of the commit's kernels compiles for an H100 without keeping registers in memory."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from everview.kernels.fast_weight import commit_kernels as kernels
from everview.kernels.fast_weight.commit_launch import LONGEST, Blocks, block_constants, blocks_for

REGISTERS = 65536
FLOATS = ("pull", "keep", "gain", "beta", "fresh")
STRIDES = ("size", "width", "hidden", "vectors")

# width, hidden, heads, column matrices, row matrices, score, follow, direction
FORMS = [
    (768, 1536, 1, 2, 1, "", "fixed", "bf16"),
    (768, 1536, 1, 2, 1, "si", "ema", "bf16"),
    (512, 512, 12, 2, 1, "", "fixed", "fp32"),
    (512, 512, 12, 2, 1, "si", "ema", "bf16"),
    (384, 768, 1, 0, 1, "mas", "fixed", "bf16"),
    (80, 144, 3, 1, 1, "ewc", "streaming", "fp32"),
    (16, 16, 1, 2, 0, "mas", "ema", "bf16"),
]
SPILLED_BYTES = {"commit_kernel": 0, "backward_kernel": 160}
"""A thread's, at most; those of the elastic backward stay in the L1 cache."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel: Any, form: tuple[Any, ...]) -> Any:
    """The kernel for sm_90a with pointers, strides and widths that are multiples of 16."""
    width, hidden, heads, columns, rows, score, follow, direction = form
    blocks = blocks_for(width, hidden)
    constants = {
        "COLUMN_MATRICES": columns,
        "ROW_MATRICES": rows,
        "SCORE": score,
        "FOLLOW": follow,
        **block_constants(blocks, width, hidden),
    }
    if heads == 1:  # as Triton does with an argument that is 1
        constants["heads"] = 1
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        kind = "i32" if name in (*STRIDES, "heads") or name.endswith("_stride") else "*fp32"
        kind = "fp32" if name in FLOATS else kind
        kind = f"*{direction}" if name in ("direction", "by_direction") else kind
        signature[name] = "constexpr" if name in constants else kind
        if signature[name] in ("*fp32", "*bf16", "i32") and name != "heads":
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": blocks.warps}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def usage(ptx: str, folder: Path) -> tuple[int, int]:
    """Registers of a thread and the bytes of them that are kept in memory."""
    path = folder / "kernel.ptx"
    path.write_text(ptx)
    assembler = next(Path(triton.__file__).parent.rglob("ptxas"))
    command = [assembler, "-v", "-arch=sm_90a", path, "-o", folder / "kernel.cubin"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    (registers,) = re.findall(r"Used (\d+) registers", told)
    (spilled,) = re.findall(r"(\d+) bytes spill stores", told)
    return int(registers), int(spilled)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
@pytest.mark.parametrize("kernel", [kernels.commit_kernel, kernels.backward_kernel])
def test_it_compiles_for_an_h100(kernel: Any, form: tuple[Any, ...], tmp_path: Path) -> None:
    result = compiled(kernel, form)
    assert ".target sm_90a" in result.asm["ptx"]
    registers, spilled = usage(result.asm["ptx"], tmp_path)
    threads = 32 * blocks_for(form[0], form[1]).warps
    assert registers * threads <= REGISTERS
    assert spilled <= SPILLED_BYTES[kernel.fn.__name__]
    assert "ld.global.v4" in result.asm["ptx"]
    assert "st.global.v4" in result.asm["ptx"]


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
