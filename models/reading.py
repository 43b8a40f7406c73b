"""Layers packed for reading: their matrices in the type of a query's matrix products."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def in_arithmetic(tokens: Tensor) -> Tensor:
    """Tokens in the type of autocast's products, where it is on: without gradients the residual
    stream needs no more, and half of what passes between products is that stream."""
    kind = tokens.device.type
    on = torch.is_autocast_enabled(kind)
    return tokens.to(torch.get_autocast_dtype(kind)) if on else tokens


class PackedStack:
    """A copy of a model's layers with every matrix in another type, kept until the weights change.

    Casting the weights in every query, as autocast does, costs more than a query's products.
    """

    def __init__(self) -> None:
        self._made_from: tuple[str, torch.device, torch.dtype] | None = None
        self._stack: nn.Module | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedStack:
        return PackedStack()  # another model's weights may go their own way

    def of(
        self, layers: nn.Module | None, fingerprint: str, products: torch.dtype | None
    ) -> nn.Module | None:
        """`layers` in `products`, or themselves for None. fingerprint: names their weights."""
        if products is None or layers is None:
            return layers
        made_from = (fingerprint, next(layers.parameters()).device, products)
        if self._stack is None or self._made_from != made_from:
            stack = copy.deepcopy(layers).requires_grad_(False)
            for parameter in stack.parameters():
                if parameter.ndim > 1:  # norms stay as they are
                    parameter.data = parameter.data.to(products)
            self._made_from, self._stack = made_from, stack
        return self._stack
