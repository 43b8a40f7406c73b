"""What a scene model is asked and what it answers.

Shapes: B scenes, V views, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.frame_bank import FrameBank
from everview.models.gauge import Gauge
from everview.models.state import Clock

HEADS = ("rgb", "depth", "confidence", "memory_rgb")

_CONFIDENT_ERROR = 0.1
"""expected absolute colour error at which confidence is 1/e"""


@dataclass(frozen=True, eq=False)
class Query:
    """What is asked for. cameras [B, V]: where from. images [B, V, 3, H, W] in [0, 1]: what was
    seen there, if anything. time_s [B, V]: when (NaN or None: unknown). A camera alone is a novel
    view."""

    cameras: Cameras | None = None
    images: Tensor | None = None
    time_s: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a query returns; heads that weren't asked for are None.

    rgb: [B, V, 3, H, W] (in [0, 1] from `query`, unclamped in training). direct_rgb: the colour
    before anything is copied from the bank. memory_rgb: the picture of the pure memory, as if there
    were no bank. depth: z in the capture's units [B, V, H, W]. log_depth, log_depth_direct: in
    gauge units, after and before the copy. log_scale: log of the expected absolute colour error.
    """

    rgb: Tensor | None = None
    direct_rgb: Tensor | None = None
    memory_rgb: Tensor | None = None
    depth: Tensor | None = None
    log_depth: Tensor | None = None
    log_depth_direct: Tensor | None = None
    log_scale: Tensor | None = None
    confidence: Tensor | None = None

    def shown(self, heads: Collection[str], gauge: Gauge) -> Outputs:
        """What a query for these heads returns: colours clamped, depth in the capture's units."""
        given = (self.rgb, self.direct_rgb, self.memory_rgb)
        rgb, direct, memory = (None if x is None else x.clamp(0, 1) for x in given)
        shown = Outputs(memory_rgb=memory)
        if "rgb" in heads:
            shown = replace(shown, rgb=rgb, direct_rgb=direct)
        if "depth" in heads and self.log_depth is not None:
            depth = gauge.depth_to_world(self.log_depth.exp())
            shown = replace(shown, depth=depth, log_depth=self.log_depth)
        if "confidence" in heads and self.log_scale is not None:
            sure = torch.exp(-self.log_scale.exp() / _CONFIDENT_ERROR)
            shown = replace(shown, confidence=sure, log_scale=self.log_scale)
        return shown


class EpisodeOutputs(NamedTuple):
    """Of the targets, and of the input tokens after their last read (depth, no copy)."""

    targets: Outputs
    inputs: Outputs


@dataclass(frozen=True, eq=False)
class View:
    """A frozen, read-only state: what renderers hold. layers: the state of every layer. features:
    of the bank's frames, matching features and then what each layer across views is shown; none
    without a bank. stack, cross_view: the layers that read, and those that look at frames.
    products: type of a query's matrix products, in which the weights of all are kept; None for the
    weights' own."""

    layers: tuple[Any, ...]
    gauge: Gauge
    clock: Clock
    bank: FrameBank | None
    features: tuple[Tensor, ...]
    stack: Any
    cross_view: Any
    products: torch.dtype | None = None

    def arithmetic(self) -> AbstractContextManager[object]:
        """The context to answer in; without `products` whatever the caller is in."""
        if self.products is None:
            return nullcontext()
        return torch.autocast(self.gauge.scale.device.type, self.products)
