"""Operations of whole models by formula: multiplications and additions of their matrix products.

Only what the task needs is counted, alike for every candidate: not Newton-Schulz, no recomputation,
no keys and values of tokens that only read, and neither embedding nor head (under 1 %).

For a token of a block of width d, fast weights F = r d wide, T tokens in its view:

    attention        8 d^2 + 4 T d
    memory, reading  4 d^2 + 6 d F          query, read, output
    memory, writing  8 d^2 + 18 d F         query, key, value, output; forward 4, backward 8, read 6
    feed-forward     16 d^2
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from everview.models.config import ModelConfig


@dataclass(frozen=True)
class Operations:
    """Of one model. blocks: of attention, memory and feed-forward each."""

    blocks: int
    dim: int
    hidden: int
    tokens_per_view: int

    @staticmethod
    def of(config: ModelConfig, size: int) -> Operations:
        """size: side of a square view in pixels."""
        return Operations(
            blocks=config.stack.count("T"),
            dim=config.dim,
            hidden=config.dim * config.memory_expansion,
            tokens_per_view=math.prod(config.token_grid(size, size)),
        )

    @property
    def _shared(self) -> int:
        return 24 * self.dim**2 + 4 * self.tokens_per_view * self.dim

    def reconstruct(self, views: int) -> int:
        """Of writing and reading views, in operations."""
        token = self._shared + 8 * self.dim**2 + 18 * self.dim * self.hidden
        return views * self.tokens_per_view * self.blocks * token

    def render(self, views: int) -> int:
        """Of views that only read, in operations."""
        token = self._shared + 4 * self.dim**2 + 6 * self.dim * self.hidden
        return views * self.tokens_per_view * self.blocks * token

    def train(self, scenes: int, inputs: int, targets: int) -> int:
        """Of one training step: three times forward."""
        return 3 * scenes * (self.reconstruct(inputs) + self.render(targets))
