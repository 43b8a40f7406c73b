"""Which implementation serves each kernel: said once, recorded in every run, never silent.

The reference in torch serves every kernel on every device. A faster one joins by its line in this
table; where it can't take a shape or a device it raises, it doesn't fall back.
"""

from __future__ import annotations

import logging
from functools import cache

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


def backends_in_use() -> dict[str, str]:
    """Kernel name to the name of what serves it, for `run.json`; the first call also logs it."""
    _announce()
    return dict(_SERVED_BY)


@cache
def _announce() -> None:
    kinds = sorted(set(_SERVED_BY.values()))
    for kind in kinds:
        served = [name for name, by in _SERVED_BY.items() if by == kind]
        names = "all kernels" if len(kinds) == 1 else ", ".join(served)
        log.info("kernels: %s (%s)", kind, names)
