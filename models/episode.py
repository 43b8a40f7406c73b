"""An episode: what one training step, or one evaluation, shows a scene model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from everview.models.gauge import Gauge
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
