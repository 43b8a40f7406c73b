"""A model of some of another's layers: where a small model starts better than from nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from everview.models.scene_model import SceneModel

_LAYER = re.compile(r"layers\.(\d+)\.")


def shallower(model: SceneModel, kept: Sequence[int]) -> SceneModel:
    """`model` with the layers at these places of its stack alone, and copies of all its weights.

    Every layer adds to a residual stream, so those that are left still mean something to each other
    (depth pruning: arXiv 2403.17887); training goes on from there. Raises ValueError for places
    that the stack lacks or that don't rise.
    """
    stack = model.config.stack
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= len(stack):
        known = f"some of 0 to {len(stack) - 1}, rising"
        raise ValueError(f"layers {tuple(kept)} of a stack of {len(stack)}: {known}")
    places = {str(before): str(after) for after, before in enumerate(kept)}
    values = {}
    for name, value in model.state_dict().items():
        match = _LAYER.match(name)
        if match is None:
            values[name] = value
        elif match[1] in places:
            values[f"layers.{places[match[1]]}.{name[match.end() :]}"] = value
    other = SceneModel(replace(model.config, stack="".join(stack[place] for place in kept)))
    other.load_state_dict(values)
    return other.to(model.device).train(model.training)
