"""What every letter of the stack can do.

Shapes: B scenes, V views, T tokens of a view, C channels, U updates.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from everview.models.layers.plan import Plan

LayerState = Any
"""A value of tensors with the batch axis first: a NamedTuple, or () for a layer without one."""


class Layer(Protocol):
    """A residual layer over the tokens of views. It never remembers on the side."""

    def init_state(self, batch: int) -> LayerState:
        """The state before the first chunk."""
        ...

    def run(
        self,
        inputs_BVTC: Tensor | None,
        queries_BVTC: Tensor | None,
        state: LayerState,
        plan: Plan | None,
        steps_BU: Tensor | None,
        grid: Any,
    ) -> tuple[Tensor | None, Tensor | None, LayerState]:
        """Execute `plan` on the inputs, then let the queries read what it left.

        inputs write and read as the plan says (None: nothing is written, plan and steps unused);
        queries only read (None: no queries). grid: a TokenGrid.
        """
        ...
