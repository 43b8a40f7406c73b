"""The matrix products of a run, replayed alone: the floor that its time is measured against.

Every product that a function executes is recorded with the layout of its operands (attention as its
two batched products) and can be run again on random operands of that layout, without anything
between. Equal layouts share their operands, which are therefore warm in cache: the floor is on the
low side, the fraction reported against it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Product = Callable[..., Tensor]

_aten = torch.ops.aten
_PRODUCTS: dict[Any, Product] = {
    _aten.mm.default: torch.mm,
    _aten.bmm.default: torch.bmm,
    _aten.convolution.default: torch.convolution,
}
_SUMS: dict[Any, Product] = {_aten.addmm.default: torch.mm, _aten.baddbmm.default: torch.bmm}
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
}
Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
Key = tuple[Product, tuple[Layout, ...], tuple[Any, ...]]


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[Key] = Counter()
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _SUMS:
            self._count(_SUMS[func], args[1:3], out)
        elif func in _PRODUCTS:
            self._count(_PRODUCTS[func], args, out)
        elif func in _ATTENTION:
            query, key, value = (part.flatten(0, 1) for part in args[:3])
            scores = query @ key.mT
            self._count(torch.bmm, (query, key.mT), scores)
            self._count(torch.bmm, (scores, value), value)
        return out

    def _count(self, product: Product, args: Sequence[Any], out: Tensor) -> None:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        settings = tuple(
            tuple(a) if isinstance(a, list) else a for a in args if not isinstance(a, Tensor)
        )
        layouts = tuple((tuple(t.shape), t.stride(), t.dtype) for t in tensors)
        self.found[(product, layouts, settings)] += 1
        summed = tensors[1][0].numel() if product is torch.convolution else tensors[0].shape[-1]
        self.flops += 2 * out.numel() * summed


class Products:
    """The products that `function` executes. Calling it replays them; `flops` is what they cost."""

    def __init__(self, function: Callable[[], object], device: torch.device | str = "cpu") -> None:
        recorder = _Recorder()
        with torch.no_grad(), recorder:
            function()
        self.flops = recorder.flops
        self._calls = [
            (product, [_random(layout, device) for layout in layouts], settings, count)
            for (product, layouts, settings), count in recorder.found.items()
        ]

    def __call__(self) -> None:
        for product, operands, settings, count in self._calls:
            for _ in range(count):
                product(*operands, *settings)


def _random(layout: Layout, device: torch.device | str) -> Tensor:
    """A random tensor of a layout, overlaps (stride 0) included."""
    shape, stride, dtype = layout
    extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    return torch.randn(extent, device=device).to(dtype).as_strided(shape, stride)
