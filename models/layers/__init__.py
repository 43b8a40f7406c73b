"""The letters of the stack, listed explicitly: one registry, one module a letter."""

from collections.abc import Callable

from everview.models.config import ModelConfig
from everview.models.layers.fast_weight import FastWeightMemory
from everview.models.layers.feed_forward import FeedForward
from everview.models.layers.grid import TokenGrid
from everview.models.layers.plan import Plan
from everview.models.layers.protocol import Layer, LayerState
from everview.models.layers.sliding_window import SlidingWindow
from everview.models.layers.window_attention import WindowAttention

LETTERS: dict[str, Callable[[ModelConfig], Layer]] = {
    "W": WindowAttention,
    "T": FastWeightMemory,
    "F": FeedForward,
    "S": SlidingWindow,
}


def build_stack(config: ModelConfig) -> list[Layer]:
    """One layer a letter of `config.stack`. Raises ValueError that names an unknown letter."""
    if not config.stack:
        raise ValueError("the stack is empty: give at least one letter")
    for letter in config.stack:
        if letter not in LETTERS:
            raise ValueError(
                f"stack {config.stack!r} has no layer for {letter!r}; known: {', '.join(LETTERS)}"
            )
    return [LETTERS[letter](config) for letter in config.stack]


__all__ = ["LETTERS", "Layer", "LayerState", "Plan", "TokenGrid", "build_stack"]
