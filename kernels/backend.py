"""Which implementation serves each kernel: said once, recorded in every run, never silent.

The reference in torch serves every kernel on every device. A faster one joins by its line in this
table; where it can't take a shape or a device it raises, it doesn't fall back.
"""

from __future__ import annotations

import logging
from functools import cache

import torch

log = logging.getLogger("everview.kernels")

REFERENCE = "torch reference"
_SERVED_BY = {
    "fast_weight_gradient": REFERENCE,
    "fast_weight_direction": REFERENCE,
    "fast_weight_commit": REFERENCE,
    "fast_weight_apply": REFERENCE,
    "newton_schulz": REFERENCE,
    "rms_norm": REFERENCE,
}


def backends_in_use(device: torch.device | None = None) -> dict[str, str]:
    """Kernel name to the name of what serves it, for `run.json`; the first call also logs it.

    device: where queries are answered, to name the type of their products too.
    """
    _announce()
    if device is None:
        return dict(_SERVED_BY)
    products = reading_products(device) or torch.float32
    return {**_SERVED_BY, "query_products": str(products).removeprefix("torch.")}


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
def _announce() -> None:
    kinds = sorted(set(_SERVED_BY.values()))
    for kind in kinds:
        served = [name for name, by in _SERVED_BY.items() if by == kind]
        names = "all kernels" if len(kinds) == 1 else ", ".join(served)
        log.info("kernels: %s (%s)", kind, names)
