"""The fast-weight memory's arithmetic: gradient, commit, apply. Reference: `reference.py`."""

from everview.kernels.fast_weight.reference import (
    MATRICES,
    FastWeights,
    fast_weight_apply,
    fast_weight_commit,
    fast_weight_direction,
    fast_weight_gradient,
    initial_norms,
    pack,
    renormalise,
    unpack,
    written,
)

__all__ = [
    "MATRICES",
    "FastWeights",
    "fast_weight_apply",
    "fast_weight_commit",
    "fast_weight_direction",
    "fast_weight_gradient",
    "initial_norms",
    "pack",
    "renormalise",
    "unpack",
    "written",
]
