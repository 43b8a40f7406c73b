"""Context parallelism: one capture's frames divided among several ranks.

Every rank holds the raw episode, embeds its own part of every chunk and asks its own part of the
targets. Attention stays inside an image and feed-forward inside a token, so nothing is exchanged
there. A fast-weight gradient is a sum over tokens: `Context.total` adds the ranks' sums before
anything that isn't linear (momentum, Newton-Schulz, renormalisation), and every rank then has the
same state (LaCT, arXiv 2505.23884, section 3.4; tttLRM does the same).

The exchange is differentiable: dL/ds of a summand is the sum of all ranks' dL/dS, so its backward
is the same all-reduce. A rank's gradients are those of the *sum* of all ranks' losses through its
own tokens; averaged over ranks they are the gradients of the mean loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, distributed

# an operator, so that torch.compile takes the exchange as it is instead of breaking its graph


@torch.library.custom_op("everview::sum_over_ranks", mutates_args=())
def sum_over_ranks(tensor: Tensor, group: str) -> Tensor:
    """The sum of every rank's `tensor` over the process group called `group`."""
    total = tensor.clone(memory_format=torch.contiguous_format)
    members = distributed.distributed_c10d._resolve_process_group(group)  # type: ignore[arg-type]
    distributed.all_reduce(total, group=members)
    return total


@sum_over_ranks.register_fake
def _(tensor: Tensor, group: str) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _keep_group(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    ctx.group = inputs[1]


def _sum_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return sum_over_ranks(gradient, ctx.group), None


sum_over_ranks.register_autograd(_sum_gradients, setup_context=_keep_group)


@dataclass(frozen=True)
class Context:
    """This rank among the `count` ranks that share a capture; alone unless told otherwise.

    group: name of their process group, as torch.distributed resolves it.
    """

    index: int = 0
    count: int = 1
    group: str = ""

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, differentiable."""
        return tensor if self.count == 1 else sum_over_ranks(tensor, self.group)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks, differentiable."""
        return tensor if self.count == 1 else self.total(tensor) / self.count

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
