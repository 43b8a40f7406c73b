"""An episode: what one training step, or one evaluation, shows a scene model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from everview.models.context import Context
from everview.models.gauge import Gauge
from everview.models.layers.plan import Plan
from everview.models.schedule import Schedule
from everview.models.state import map_tensors
from everview.models.views import Views


@dataclass(frozen=True, eq=False)
class Episode:
    """inputs write, in chunks of `chunk_views` views; targets are asked for.

    gauge: from the first chunk alone (training composes its augmentation into it).
    bank_mask: [B, V targets], False where a target must come from the memory alone; None is all
    True.
    """

    inputs: Views
    targets: Views
    chunk_views: tuple[int, ...]
    gauge: Gauge
    bank_mask: Tensor | None = None

    def __post_init__(self) -> None:
        views = self.inputs.cameras.shape[1]
        if sum(self.chunk_views) != views:
            raise ValueError(f"chunks of {self.chunk_views} views don't add up to {views} inputs")

    def micro_batches(self, count: int) -> list[Episode]:
        """The scenes in `count` equal groups: those at 0, count, 2 count, ... first.

        `count` ranks that deal a batch out among them have the same groups, so one process that
        takes over from two adds up the same two gradients, bit for bit. Raises ValueError when the
        groups would not be equal.
        """
        scenes = self.inputs.cameras.shape[0]
        if scenes % count:
            raise ValueError(f"{scenes} scenes can't be cut into {count} equal micro-batches")
        if count == 1:
            return [self]
        return [map_tensors(partial(_dealt, first, count), self) for first in range(count)]

    def own_part(self, context: Context, schedule: Schedule) -> Episode:
        """What one of the ranks that share the episode embeds and asks: its part of every chunk
        that is written at once, and of the targets."""
        if context.count == 1:
            return self
        chunks = Plan.of(schedule, self.chunk_views).chunk_views
        asked = (self.targets.cameras.shape[1],)

        def cut(value: Any, views: tuple[int, ...]) -> Any:
            return map_tensors(lambda tensor: context.cut(tensor, views), value)

        return replace(
            self,
            inputs=cut(self.inputs, chunks),
            targets=cut(self.targets, asked),
            chunk_views=context.own_chunks(chunks),
            bank_mask=cut(self.bank_mask, asked),
        )


def _dealt(first: int, count: int, tensor: Tensor) -> Tensor:
    return tensor[first::count].contiguous()  # sums of strided rows would be in another order
