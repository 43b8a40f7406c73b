"""Arithmetic of training: bfloat16 products on a GPU, float32 on a CPU; geometry keeps its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def mixed_precision(device: torch.device) -> torch.autocast:
    """The context in which the model runs, in training and in measurements of training."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


@contextmanager
def uncompiled() -> Iterator[None]:
    """Runs what was compiled as it was written. Where nothing was, the compiler isn't imported for
    it: that takes seconds in every rank and worker."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
