"""The ranks of a run as a value, and what they tell each other.

Every rank trains on its own share of one global batch and holds the same weights. What is averaged
is averaged in one place, `Ranks.mean`, which gives all ranks the same bits: whatever a rank decides
from it (clip, skip), all decide.

`count` ranks may share a capture (`everview.models.context`): then groups of `context` ranks see
the same scenes, and `share` counts groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everview.models.context import Context
from everview.pipeline.errors import UsageError


@dataclass(frozen=True)
class Share:
    """Every `count`-th position of a global batch, from `index` on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"share {self.index} of {self.count} doesn't exist")

    @property
    def positions(self) -> slice:
        """Of the scenes of a global batch, or of the parts of a pool."""
        return slice(self.index, None, self.count)

    def size(self, total: int) -> int:
        """How many of `total` positions it has."""
        return len(range(total)[self.positions])


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone unless told otherwise.

    rank, size: of `size` processes. context: this many consecutive ranks share each capture.
    group: the process group of all ranks; None stands for torch's default one.
    """

    rank: int = 0
    size: int = 1
    context: Context = Context()  # noqa: RUF009 (frozen)
    group: Any = None

    @property
    def share(self) -> Share:
        """This rank's scenes of a global batch."""
        return Share(self.rank // self.context.count, self.size // self.context.count)

    @property
    def leads(self) -> bool:
        """Whether this rank writes, reports and evaluates for all."""
        return self.rank == 0

    def check(self, parts: int) -> None:
        """Raise UsageError when a global batch of `parts` parts can't be cut for these ranks."""
        if self.size % self.context.count:
            raise UsageError(
                f"{self.size} workers can't form groups of {self.context.count} that share a "
                "capture; change --workers or --parallel.context"
            )
        if parts % self.share.count:
            possible = [count for count in range(1, parts + 1) if parts % count == 0]
            raise UsageError(
                f"this recipe's batches can't be cut into {self.share.count} equal shares; "
                f"possible are {', '.join(map(str, possible))} (the divisors of "
                "what --data.shapes and the pool's blocks have in common)"
            )

    def dealt(self, held_by_all: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of what every rank holds, what this one writes down."""
        names = sorted(held_by_all)[self.rank :: self.size]
        return {name: held_by_all[name] for name in names}

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over ranks, in place; the same bits on every rank."""
        return self.begin_mean(tensor)()

    def begin_mean(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begin `mean`, for the call that is returned to end: on a GPU the stream waits then, not
        the host. Until then the tensor may be neither read nor written."""
        if self.size == 1:
            return lambda: tensor
        exchange = torch.distributed.all_reduce(tensor, group=self.group, async_op=True)

        def end() -> Tensor:
            exchange.wait()
            return tensor.div_(self.size)

        return end

    def of_first(self, tensor: Tensor) -> Tensor:
        """The first rank's `tensor`, which all have of one shape and type."""
        if self.size > 1:
            torch.distributed.broadcast(tensor, group=self.group, group_src=0)
        return tensor
