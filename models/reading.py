"""Layers packed for reading: their matrices in the type of a query's matrix products."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def compile_runs(layers: nn.ModuleList, options: dict[str, Any]) -> None:
    """torch.compile what every layer does; layers of one letter share their graphs."""
    for layer in layers:
        layer.run = torch.compile(layer.run, **options)


class PackedStack:
    """A copy of a model's layers with every matrix in another type, kept until the weights change.

    Casting the weights in every query, as autocast does, costs more than a query's products.
    """

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        """options: of torch.compile for the layers' runs; None leaves them as they are."""
        self._made_from: tuple[str, torch.device, torch.dtype] | None = None
        self._stack: nn.Module | None = None
        self._options = options

    def of(
        self, layers: nn.ModuleList, fingerprint: str, products: torch.dtype | None
    ) -> nn.Module:
        """`layers` in `products`, or themselves for None. fingerprint: names their weights."""
        if products is None:
            return layers
        made_from = (fingerprint, next(layers.parameters()).device, products)
        if self._stack is None or self._made_from != made_from:
            stack = copy.deepcopy(layers).requires_grad_(False)
            for parameter in stack.parameters():
                if parameter.ndim > 1:  # norms stay as they are
                    parameter.data = parameter.data.to(products)
            for layer in stack:
                layer.__dict__.pop("run", None)  # compiled for the original's weights
            if self._options is not None:
                compile_runs(stack, self._options)
            self._made_from, self._stack = made_from, stack
        return self._stack
