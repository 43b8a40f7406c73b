"""Agreement that survives occlusion: which pairs of a patch's sources show the same thing.

A surface that some sources don't see leaves the variance over all of them as large at the true
depth as elsewhere, but the pairs that do see it still agree. So each pair's squared distance is
bounded, and only then averaged (Geman and McClure's estimator, Bayesian image analysis, 1985):

    r = mean over pairs of h / (1 + h),   h = a |colour difference|^2 + b |feature difference|^2

`widths` makes several such means, with a and b of their own: a narrow one asks for close agreement,
a wide one is nearly the variance. Both weights, and how much each mean counts, are learned.

Cost: each of S (S - 1) / 2 pairs reads two sources' samples, so S - 1 copies of all samples pass by
forwards and at most three times as many backwards, if compiled; nothing of S x S x C is kept. For
16 x 8 views of 128 px, 32 depths and 6 sources of 35 channels (0.9 GB of samples, float32, which
the variance reads once) these are 4.4 GB and 1.6 GFLOP forwards; the sums of 15 pairs are 0.06 GB.

Shapes: B scenes, V views, S sources, T patches, J depths, C channels, K widths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_COLOUR, _FEATURE = 4.5, 12.0
_TRUST_UNIT = 10.0


class PairAgreement(nn.Module):
    """A second opinion and second evidence, both nothing until trained."""

    def __init__(self, widths: tuple[float, ...], hypotheses: int, dim: int) -> None:
        """widths: of each mean, the variance that counts half in it, in the units in which a
        trained sweep's opinion (`base`) weighs variances."""
        super().__init__()
        per_width = [[_COLOUR / width, _FEATURE / width] for width in widths]
        self.weights = nn.Parameter(torch.tensor(per_width).log())  # [K, 2], logarithms of a and b
        self.trust = nn.Parameter(torch.zeros(len(widths)))
        self.reading = nn.Parameter(torch.zeros(len(widths) * hypotheses, dim))

    def forward(self, samples_BVSCTJ: Tensor, seen_BVSTJ: Tensor, colours: int) -> Tensor:
        """How much pairs disagree, [B, V, K, T, J] in [0, 1]; 1 where no two sources see a patch.

        samples: features and then `colours` channels of colour; seen: 1 where a source sees it.
        """
        a, b = (w[:, None, None, None] for w in self.weights.exp().to(samples_BVSCTJ).unbind(-1))
        sources = samples_BVSCTJ.shape[2]
        total = samples_BVSCTJ.new_zeros(())
        count = samples_BVSCTJ.new_zeros(())
        for apart in range(1, sources):  # all pairs at once of sources s and s + apart
            first, second = samples_BVSCTJ[:, :, :-apart], samples_BVSCTJ[:, :, apart:]
            squared = (first - second).square()
            feature = squared[:, :, :, :-colours].sum(3)[:, :, None]
            colour = squared[:, :, :, -colours:].sum(3)[:, :, None]
            both = (seen_BVSTJ[:, :, :-apart] * seen_BVSTJ[:, :, apart:])[:, :, None]
            h = a * colour + b * feature
            total = total + (both * h / (1 + h)).sum(3)
            count = count + both.sum(3)
        if sources == 1:
            return torch.ones_like(seen_BVSTJ).expand(-1, -1, len(self.weights), -1, -1)
        return torch.where(count > 0, total / count.clamp_min(1), 1.0)

    def doubt(self, disagreement_BVKTJ: Tensor) -> Tensor:
        """What it adds to the opinion's doubt, [B, V, T, J]."""
        trust = _TRUST_UNIT * self.trust.to(disagreement_BVKTJ)
        return (trust[:, None, None] * disagreement_BVKTJ).sum(2)

    def read(self, disagreement_BVKTJ: Tensor) -> Tensor:
        """What it adds to the first layer that reads the evidence, [B, V, T, dim]."""
        by_patch = disagreement_BVKTJ.transpose(2, 3).flatten(3)
        return (by_patch - 0.5).to(self.reading.dtype) @ self.reading
