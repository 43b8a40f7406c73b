"""A running mean of the weights, which is measured and published in their place.

    m <- m + (1 - d_t) (w - m),   d_t = min(d, (1 + t) / (10 + t))

after accepted step t, from m = w at the start. Averages of a stochastic optimiser's iterates are
better than the iterates while the rate is high (Polyak and Juditsky 1992); the smaller decay of the
first steps, which lets go of where training began, is that of TensorFlow's
`ExponentialMovingAverage` with `num_updates`. A refused step, after which the weights are what they
were, doesn't count.

All of it stays on the device, in place: a captured step records it. Where ranks divide the weights
among them, each keeps the mean of what it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from everview.models.scene_model import SceneModel


class WeightAverage:
    """The running mean of some tensors; `values` are in their order and of their shapes."""

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.values = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def follow(self, weights: Sequence[Tensor], steps: Tensor, accepted: Tensor) -> None:
        """Move towards `weights`. steps: accepted so far, the last one too; accepted: whether it
        was, 1 or 0; scalars where the weights are."""
        decay = ((1 + steps) / (10 + steps)).clamp(max=self.decay)
        apart = torch._foreach_sub(list(weights), self.values)
        torch._foreach_mul_(apart, (1 - decay) * accepted)
        torch._foreach_add_(self.values, apart)


@torch.no_grad()
def model_with(weights: Mapping[str, Tensor], like: SceneModel) -> SceneModel:
    """A model of the configuration and on the device of `like` with these weights by name, each of
    any shape with as many elements. Its own: what it is used for changes nothing in `like`."""
    with torch.random.fork_rng(devices=[]):  # new weights are drawn, and thrown away
        model = SceneModel(like.config).to(like.device)
    for name, own in model.named_parameters():
        own.copy_(weights[name].view(own.shape))
    return model
