"""Every form of the Newton-Schulz kernels that can be chosen compiles for an H100, and fits it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from everview.kernels.newton_schulz import norms, plan, products
from everview.kernels.newton_schulz.operators import OPERANDS

SHARED_MEMORY = 227 * 1024
REGISTERS = 65536
HALF = {torch.float16: "fp16", torch.bfloat16: "bf16"}[OPERANDS]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(
    kernel: Any, signature: dict[str, str], constants: dict[str, Any], **options: Any
) -> Any:
    """The kernel for sm_90a; pointers and integers are multiples of 16 unless named *_first."""
    signature = signature | dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in kernel.arg_names}
    free = {kernel.arg_names[index] for index in kernel.do_not_specialize if isinstance(index, int)}
    free |= {name for name in kernel.do_not_specialize if isinstance(name, str)}
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(signature.items())
        if (kind == "i32" or kind.startswith("*")) and name not in free
    }
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def blocks(kind: str, rows: int, columns: int) -> str:
    return f"tensordesc<{kind}[1, {rows}, {columns}]>"


def product(configuration: plan.Configuration, dependent: bool = False) -> Any:
    """The compiled product, with the arguments that `launch` gives it."""
    kind, tiles = configuration.kind, configuration.tiles
    rows, columns, depth = tiles.rows, tiles.columns, tiles.depth
    constants: dict[str, Any] = {
        "TWICE": plan.twice(kind),
        "BM": rows,
        "BN": columns,
        "BK": depth,
        "DEPENDENT": dependent,
    }
    options: dict[str, Any] = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    if dependent:
        options["launch_pdl"] = True
    wide = "fp32" if configuration.wide_result else HALF
    if not plan.symmetric(kind):
        signature = dict.fromkeys(products.general_product.arg_names, "i32") | {
            "lefts": blocks(HALF, rows, depth),
            "rights": blocks(HALF, depth, columns),
            "result": blocks(wide, rows, columns),
        }
        return compiled(products.general_product, signature, constants, **options)
    constants["ADD"] = kind in ("square", "mixed")
    signature = dict.fromkeys(products.symmetric_product.arg_names, "i32") | {
        "by_rows": blocks(HALF, rows, depth),
        "by_columns": blocks(HALF, columns, depth),
        "addend": f"*{HALF}",
        "result": blocks(wide, rows, columns),
        "mirrored": blocks(wide, columns, rows),
        "alpha": "fp32",
        "beta": "fp32",
        "gamma": "fp32",
    }
    if not constants["ADD"]:
        constants["addend"] = None
    return compiled(products.symmetric_product, signature, constants, **options)


def resources(kernel: Any, place: Path) -> tuple[int, int]:
    """Registers a thread and bytes of stack (spills) of a compiled kernel."""
    cubin = place / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", told.stdout + told.stderr)
    assert found is not None, told.stdout
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("configuration", plan.configurations(), ids=str)
def test_a_product_runs_on_tensor_cores_from_shared_memory_without_spills(
    configuration: plan.Configuration, tmp_path: Path
) -> None:
    kernel, tiles = product(configuration), configuration.tiles
    assert "wgmma.mma_async" in kernel.asm["ptx"]
    assert "cp.async.bulk.tensor" in kernel.asm["ptx"]
    assert "mma.sync" not in kernel.asm["ptx"]
    registers, stack = resources(kernel, tmp_path)
    assert stack == 0
    assert tiles.resident * (kernel.metadata.shared + 1024) <= SHARED_MEMORY
    assert tiles.resident * registers * tiles.warps * 32 <= REGISTERS


@pytest.mark.parametrize("kind", ["square", "fold"])
def test_a_dependent_product_waits_before_it_touches_memory(kind: plan.Kind) -> None:
    kernel = product(plan.Configuration(kind, plan.CHOICES[kind][0]), dependent=True)
    lines = kernel.asm["ptx"].splitlines()
    waits = [at for at, line in enumerate(lines) if "griddepcontrol.wait" in line]
    touches = [
        at
        for at, line in enumerate(lines)
        if re.search(r"\b(ld|st)\.global|cp\.async\.bulk\.tensor\.\d", line)
    ]
    assert len(waits) == 1
    assert waits[0] < min(touches)


def norm_kernels() -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any]]]:
    sums = {"STEP": 512, "BR": 32, "BC": 128, "DEPENDENT": False}
    for kind in ("fp32", "bf16"):
        for along in ("row_stride", "column_stride"):
            strided = {"left": f"*{kind}", "right": f"*{kind}", "partial": "*fp32"}
            plain = {name: value for name, value in sums.items() if name != "STEP"}
            constants = plain | {"SQUARE": True, along: 1}
            yield f"squares-{kind}-{along}", norms.block_products, strided, constants
            pointers = {"source": f"*{kind}", "result": f"*{HALF}", "epsilon": "fp32"}
            pointers |= {"partial": "*fp32", "norm": "*fp32"}
            yield f"normalise-{kind}-{along}", norms.normalise, pointers, sums | {along: 1}
        pointers = {"gradient": "*fp32", "unit": f"*{HALF}", "result": f"*{kind}"}
        pointers |= dict.fromkeys(("partial", "gradient_norm", "norm"), "*fp32")
        yield f"through-{kind}", norms.through_norm, pointers | {"epsilon": "fp32"}, sums


@pytest.mark.parametrize("named", list(norm_kernels()), ids=lambda named: named[0])
def test_norms_and_casts_compile_without_spills(
    named: tuple[str, Any, dict[str, str], dict[str, Any]], tmp_path: Path
) -> None:
    _, kernel, signature, constants = named
    signature = dict.fromkeys(kernel.arg_names, "i32") | signature
    assert resources(compiled(kernel, signature, constants, num_warps=4), tmp_path)[1] == 0
