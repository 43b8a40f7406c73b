"""Host waits and copies, noticed without a GPU: on tensors that have devices but no values."""

from __future__ import annotations

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from everview.kernels import backend


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever asks believe that tensors on "cuda" lie on a card with every kernel."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(backend, "_what_is_missing", lambda _: "")


class Crossings(TorchDispatchMode):
    """Notes every operation between the host's memory and `device`'s, with its place."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs or {}, result))
        devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
        if {"cpu", self.device} <= devices:
            frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename]
            place = next(f for f in reversed(frames) if f.filename != __file__)
            self.found.append(f"{func} at {place.filename}:{place.lineno}")
        return result
