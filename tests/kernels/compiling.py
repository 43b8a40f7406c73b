"""Compiling kernels for an H100 without one: real calls whose launches are recorded, not made.

What a launch compiles to follows from its arguments, so the forms compiled here are those that the
launching code asks for, with the specialisations that Triton makes of them.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as LaidOutDescriptor
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

SHARED_MEMORY = 227 * 1024
"""Bytes that the programs of a multiprocessor share on an H100."""
REGISTERS = 65536
_KINDS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_MULTIPLE_OF_16 = ("tt.divisibility", 16)


@dataclass(frozen=True)
class Launch:
    """One form of a kernel: argument types, constants and multiples of 16 by their place (in a
    tuple, its place and theirs), compiler options; equal where one binary serves both."""

    kernel: Any
    signature: tuple[Any, ...]
    constants: tuple[tuple[tuple[int, ...], Any], ...]
    multiples: tuple[tuple[int, ...], ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    @property
    def threads(self) -> int:
        return 32 * dict(self.options)["num_warps"]

    def constant(self, name: str) -> Any:
        """What an argument is, None unless it is constant."""
        return dict(self.constants).get((self.kernel.arg_names.index(name),))

    def compiled(self) -> Any:
        """For sm_90a, anew."""
        kind = GluonASTSource if self.kernel.is_gluon() else ASTSource
        source = kind(
            self.kernel,
            dict(zip(self.kernel.arg_names, self.signature, strict=True)),
            dict(self.constants),
            {place: [list(_MULTIPLE_OF_16)] for place in self.multiples},
        )
        with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_CACHE_DIR", cache)
            target = GPUTarget("cuda", 90, 32)
            return triton.compile(source, target=target, options=dict(self.options))


def launches(run: Callable[[], object], *modules: ModuleType) -> list[Launch]:
    """The different forms of these modules' kernels that `run` launches, in order. The kernels
    don't run: results are what their memory held."""
    found: list[Launch] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    patch.setattr(module, name, _Recorder(value, found))
        run()
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Recorder:
    kernel: Any
    found: list[Launch]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(size > 0 for size in grid)

        def launch(*arguments: object, **named: object) -> None:
            self.found.append(_launch(self.kernel, arguments, named))

        return launch


def _launch(kernel: Any, arguments: tuple[object, ...], named: dict[str, object]) -> Launch:
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | named
    signature: list[Any] = []
    constants: list[tuple[tuple[int, ...], Any]] = []
    multiples: list[tuple[int, ...]] = []

    def kind(value: object, place: tuple[int, ...], parameter: Any) -> Any:
        specialised = not parameter.do_not_specialize
        is_one = type(value) is int and value == 1 and specialised
        if parameter.is_constexpr or value is None or is_one:
            constants.append((place, value))
            return "constexpr"
        if isinstance(value, tuple):
            return tuple(kind(part, (*place, i), parameter) for i, part in enumerate(value))
        if specialised and _is_multiple(value):
            multiples.append(place)
        return _kind(value)

    for place, parameter in enumerate(kernel.params):
        signature.append(kind(given.pop(parameter.name), (place,), parameter))
    options = tuple(sorted(given.items()))
    return Launch(kernel, tuple(signature), tuple(constants), tuple(multiples), options)


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"*{_KINDS[value.dtype]}"
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{_KINDS[value.base.dtype]}{list(value.block_shape)}>"
    if isinstance(value, LaidOutDescriptor):
        block, kind = list(value.block_shape), _KINDS[value.base.dtype]
        return f"tensordesc<{kind}{block},{value.layout!r}>"
    if isinstance(value, int):
        return "i32" if abs(value) < 1 << 31 else "i64"
    return "fp32"


def _is_multiple(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.data_ptr() % 16 == 0
    return type(value) is int and value % 16 == 0


def resources(kernel: Any) -> tuple[int, int]:
    """Registers a thread and bytes of stack (registers kept in memory) of a compiled kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        told = subprocess.run(
            [tool, "-res-usage", cubin], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", told.stdout + told.stderr)
    assert found is not None, told.stdout
    return int(found[1]), int(found[2])


def assert_products_are_on_tensor_cores(kernel: Any) -> None:
    """By warp-group products of operands that tensor memory access brought to shared memory."""
    code = kernel.asm["ptx"]
    assert ".target sm_90a" in code
    assert "wgmma.mma_async" in code
    assert "cp.async.bulk.tensor" in code
    assert "mma.sync" not in code
