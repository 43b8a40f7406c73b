"""The fast-weight memory's arithmetic: gradient, direction, commit, apply.

`reference.py` defines it. Tokens in bfloat16 on a GPU go to the Triton kernels (`operators.py`),
all others to the reference; `everview.kernels.backend` says so in every run.
"""

from everview.kernels.fast_weight.commit import (
    ElasticRule,
    ElasticState,
    elastic_commit,
    fast_weight_commit,
)
from everview.kernels.fast_weight.dispatch import fast_weight_apply, fast_weight_gradient
from everview.kernels.fast_weight.reference import (
    MATRICES,
    FastWeights,
    fast_weight_direction,
    initial_norms,
    pack,
    renormalise,
    unpack,
    written,
)

__all__ = [
    "MATRICES",
    "ElasticRule",
    "ElasticState",
    "FastWeights",
    "elastic_commit",
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
