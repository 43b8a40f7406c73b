"""Which implementation serves each kernel: said once, recorded in every run, never silent.

One rule for all kernels. The reference in torch takes every device, type and shape. On an NVIDIA
GPU with tensor memory access (sm_90 and later) Triton serves the inputs that BY_TRITON names. A
call there with others goes to the reference; the first one for each reason logs a warning, and so
does the first on a GPU without kernels, or with EVERVIEW_KERNELS=reference in the environment, for
a comparison. Arguments that don't fit each other raise ValueError.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

log = logging.getLogger("everview.kernels")
P = ParamSpec("P")
T = TypeVar("T")

REFERENCE = "torch reference"
BY_TRITON = {
    "fast_weight_gradient": "bfloat16 tokens, widths multiples of 16",
    "fast_weight_direction": "sides multiples of 16, products in float16",
    "fast_weight_commit": "float32 weights, vectors of at most 8192",
    "fast_weight_apply": "bfloat16 tokens, widths multiples of 16",
    "newton_schulz": "float32 or bfloat16 in, sides multiples of 16, products in float16",
}
"""Kernel to the inputs that Triton takes."""
_KERNELS = (*BY_TRITON, "rms_norm")
_SHARED_MEMORY = 227 * 1024
"""Bytes that a block of the largest configurations takes."""


def _constant_while_traced(function: Callable[P, T]) -> Callable[P, T]:
    """What `torch.compiler.assume_constant_result` makes of a function, without importing the
    compiler: that takes seconds in every process, and few of them compile."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def backends_in_use(device: torch.device | None = None) -> dict[str, str]:
    """Kernel name to what serves it on a device, for `run.json`; the first call also logs it.

    device: where the tensors are; a GPU, if there is one, unless given. `query_products` is the
    type of a query's products there.
    """
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    served = _served_by(device)
    _announce(device)
    products = reading_products(device) or torch.float32
    return {**served, "query_products": str(products).removeprefix("torch.")}


@_constant_while_traced
def triton_serves(device: torch.device) -> bool:
    """Whether the Triton kernels run on a device; a GPU on which they don't is logged once."""
    if device.type != "cuda":
        return False
    reason = _what_is_missing(device)
    if reason:
        _warn(f"all kernels on {device}", reason)
    return not reason


def on_its_device(launch: Callable[P, T]) -> Callable[P, T]:
    """`launch` on the device of its first argument, a tensor: Triton takes the current one."""

    @wraps(launch)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.cuda.device_of(args[0]):  # nothing changes for tensors elsewhere
            return launch(*args, **kwargs)

    return run


def by_triton(kernel: str, device: torch.device, refused: str = "") -> bool:
    """Whether Triton serves this call of `kernel`. refused: what it can't take of the call, if
    anything: then the reference serves it and, where Triton serves others, that is logged once.
    """
    if not triton_serves(device):
        return False
    if refused:
        _warn(kernel, refused)
    return not refused


@cache
def reading_products(device: torch.device) -> torch.dtype | None:
    """The type in which a query's matrix products are fastest at no visible cost: bfloat16 where
    the hardware multiplies matrices in it (AMX on a CPU, sm_80 and later), else None, for the
    weights' own. A picture then differs by about 0.001 of full scale (root mean square).
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return None


@cache
def _what_is_missing(device: torch.device) -> str:
    """Why a GPU doesn't run the Triton kernels; empty where it does."""
    if os.environ.get("EVERVIEW_KERNELS") == "reference":
        return "EVERVIEW_KERNELS=reference"
    if torch.version.hip is not None:
        return "not an NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 9:
        return f"sm_{major}{minor} has no tensor memory access, sm_90 and later have"
    properties = torch.cuda.get_device_properties(device)
    memory = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    if memory < _SHARED_MEMORY:
        return f"{memory >> 10} KiB of shared memory a block, {_SHARED_MEMORY >> 10} are needed"
    if importlib.util.find_spec("triton") is None:
        return "triton isn't installed"
    return ""


def _served_by(device: torch.device) -> dict[str, str]:
    triton = triton_serves(device)
    return {
        kernel: f"triton ({BY_TRITON[kernel]})" if triton and kernel in BY_TRITON else REFERENCE
        for kernel in _KERNELS
    }


@_constant_while_traced
def _warn(kernel: str, reason: str) -> None:
    """Also while a graph is traced, which is when its calls are dispatched."""
    _warn_once(kernel, reason)


@cache
def _warn_once(kernel: str, reason: str) -> None:
    log.warning("%s: %s (%s)", kernel, REFERENCE, reason)


@cache
def _announce(device: torch.device) -> None:
    served = _served_by(device)
    triton = [kernel for kernel, by in served.items() if by != REFERENCE]
    if not triton:
        log.info("kernels on %s: all by %s", device, REFERENCE)
        return
    rest = [kernel for kernel in served if kernel not in triton]
    log.info("kernels on %s: triton for %s; %s for %s, and for inputs that triton doesn't take",
             device, ", ".join(triton), REFERENCE, ", ".join(rest))  # fmt: skip
