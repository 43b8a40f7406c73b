"""Arithmetic of training: bfloat16 products on a GPU, float32 on a CPU; geometry keeps its own."""

from __future__ import annotations

import torch


def mixed_precision(device: torch.device) -> torch.autocast:
    """The context in which the model runs, in training and in measurements of training."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
