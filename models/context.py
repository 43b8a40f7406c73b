"""Context parallelism: one capture's frames divided among several ranks.

Every rank holds the raw episode, embeds its own part of every chunk and asks its own part of the
targets. Attention stays inside an image and feed-forward inside a token, so nothing is exchanged
there. A window over time holds few cells of a frame: `Context.whole_chunk` gives every rank those
of all frames. A fast-weight gradient is a sum over tokens: `Context.total` adds the ranks' sums
before anything that isn't linear (momentum, Newton-Schulz, renormalisation), and every rank then
has the same state (LaCT, arXiv 2505.23884, section 3.4; tttLRM does the same).

The exchange is differentiable: dL/ds of a summand is the sum of all ranks' dL/dS, so its backward
is the same all-reduce. A rank's gradients are those of the *sum* of all ranks' losses through its
own tokens; averaged over ranks they are the gradients of the mean loss.

It is begun and ended apart: what lies between runs beside it, and what lies between forward does so
backward. torch.compile knows both halves (torch's functional collectives) and keeps their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor


class _Begin(torch.autograd.Function):
    """Begin a sum over ranks; backward ends the one that `_End`'s backward began."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: str) -> Tensor:
        return _begun(tensor, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _ended(gradient), None


class _End(torch.autograd.Function):
    """End a sum over ranks; backward begins the gradients'."""

    @staticmethod
    def forward(ctx: Any, begun: Tensor, group: str) -> Tensor:
        ctx.group = group
        return _ended(begun)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _begun(gradient, ctx.group), None


def _begun(tensor: Tensor, group: str) -> Tensor:
    return torch.ops._c10d_functional.all_reduce(tensor.contiguous(), "sum", group)


def _ended(begun: Tensor) -> Tensor:
    return torch.ops._c10d_functional.wait_tensor(begun)


@dataclass(frozen=True)
class Context:
    """This rank among the `count` ranks that share a capture; alone unless told otherwise.

    group: name of their process group, as torch.distributed resolves it.
    """

    index: int = 0
    count: int = 1
    group: str = ""

    def begin_total(self, tensor: Tensor) -> Tensor:
        """Begin `total`. What is returned may only be given to `end_total`."""
        return tensor if self.count == 1 else _Begin.apply(tensor, self.group)

    def end_total(self, begun: Tensor) -> Tensor:
        """The sum that was begun; on a GPU the stream waits for it, not the host."""
        return begun if self.count == 1 else _End.apply(begun, self.group)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, differentiable."""
        return self.end_total(self.begin_total(tensor))

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks, differentiable."""
        return tensor if self.count == 1 else self.total(tensor) / self.count

    def whole_chunk(self, own: Tensor) -> Tensor:
        """A chunk's values [B, V, ...] from every rank's part of it [B, V / count, ...], laid side
        by side as `cut` took them; differentiable."""
        if self.count == 1:
            return own
        parts = [torch.zeros_like(own)] * self.count
        parts[self.index] = own
        return self.total(torch.cat(parts, dim=1))

    def own_size(self, views: int) -> int:
        """Views of this rank, the same for all. Raises ValueError when they can't be divided."""
        if views % self.count:
            raise ValueError(
                f"{views} views (of a chunk, or of all targets) can't be divided evenly among "
                f"{self.count} ranks that share a capture"
            )
        return views // self.count

    def cut(self, values: Tensor, chunk_views: tuple[int, ...]) -> Tensor:
        """This rank's part of every chunk of [B, V, ...], chunks in order."""
        if self.count == 1:
            return values
        own = []
        for end, views in zip(accumulate(chunk_views), chunk_views, strict=True):
            size = self.own_size(views)
            first = end - views + self.index * size
            own.append(values[:, first : first + size])
        return own[0] if len(own) == 1 else torch.cat(own, dim=1)

    def own_chunks(self, chunk_views: tuple[int, ...]) -> tuple[int, ...]:
        """Views of this rank in every chunk."""
        return tuple(self.own_size(views) for views in chunk_views)
