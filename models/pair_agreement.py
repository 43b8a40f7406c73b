"""Agreement that survives occlusion: which pairs of a patch's sources show the same thing.

A surface that some sources don't see leaves the variance over all of them as large at the true
depth as elsewhere, but the pairs that do see it still agree. So each pair's squared distance is
bounded, and only then averaged (Geman and McClure's estimator, Bayesian image analysis, 1985):

    r = mean over pairs of w h / (1 + h),   w = (distance between the two cameras)^-p
    h = a |colour difference|^2 + b |feature difference|^2

with the differences of a patch and its 3 x 3 neighbourhood. Near cameras see the same surface more
often, so there are several such means, of different p. All of a, b, p, and how much each mean
counts, are learned.

Cost: each of S (S - 1) / 2 pairs reads two sources' samples, so S - 1 copies of all samples pass by
forwards and at most three times as many backwards, if compiled; nothing of S x S x C is kept. For
16 x 8 views of 128 px, 32 depths and 6 sources of 35 channels (0.9 GB of samples, float32, which
the variance reads once) these are 4.4 GB and 1.6 GFLOP forwards; what is kept of the 15 pairs is
about ten maps of 0.06 GB. Measured on a CPU core only: the sweep of a view of 128 px takes 37 ms
instead of 17.

Shapes: B scenes, V views, S sources, T patches, J depths, C channels, K means.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from everview.datasets.cameras import Cameras

# fitted to true depths, beside the variance that a sweep has: the campaign log has how
_COLOUR, _FEATURE = 0.2, 7.0
_TRUST_UNIT = 10.0
_CLOSEST = 0.05


class PairAgreement(nn.Module):
    """A second opinion and second evidence, both nothing until trained."""

    def __init__(self, powers: tuple[float, ...], hypotheses: int, dim: int) -> None:
        """powers: p of each mean at first."""
        super().__init__()
        count = len(powers)
        self.weights = nn.Parameter(torch.tensor([_COLOUR, _FEATURE]).log().repeat(count, 1))
        self.powers = nn.Parameter(torch.tensor(powers))
        self.trust = nn.Parameter(torch.zeros(count))
        self.reading = nn.Parameter(torch.zeros(count * hypotheses, dim))

    def forward(
        self, samples_BVSCTJ: Tensor, inside_BVSTJ: Tensor, sources: Cameras, rows: int
    ) -> Tensor:
        """How much pairs disagree, [B, V, K, T, J] in [0, 1]; 1 where no two sources see a patch.

        samples: features and then 3 channels of colour, of patches in `rows` rows; inside: which
        sources [B, V, S] see a patch.
        """
        seen = inside_BVSTJ.to(samples_BVSCTJ.dtype)
        if seen.shape[2] == 1:
            return torch.ones_like(seen).expand(-1, -1, len(self.trust), -1, -1)
        feature, colour, both, apart = [], [], [], []
        for step in range(1, seen.shape[2]):  # all pairs of sources s and s + step at once
            squared = (samples_BVSCTJ[:, :, :-step] - samples_BVSCTJ[:, :, step:]).square()
            feature.append(squared[:, :, :, :-3].sum(3))
            colour.append(squared[:, :, :, -3:].sum(3))
            both.append(seen[:, :, :-step] * seen[:, :, step:])
            apart.append(
                (sources.centres[:, :, :-step] - sources.centres[:, :, step:]).norm(dim=-1)
            )
        pairs = torch.cat(both, 2)
        near = torch.cat(apart, 2).to(pairs)
        near = (near / near.mean(2, keepdim=True).clamp_min(1e-6)).clamp_min(_CLOSEST).log()
        known = smoothed(pairs, rows).clamp_min(1e-6)
        colour_apart, feature_apart = (
            smoothed(torch.cat(parts, 2) * pairs, rows) / known for parts in (colour, feature)
        )
        means = []
        for (a, b), power in zip(self.weights.exp(), self.powers, strict=True):
            h = a.to(pairs) * colour_apart + b.to(pairs) * feature_apart
            weight = pairs * (-power.to(near) * near).exp()[..., None, None]
            count = weight.sum(2)
            mean = (weight * h / (1 + h)).sum(2) / count.clamp_min(1e-6)
            means.append(torch.where(count > 0, mean, 1.0))
        return torch.stack(means, 2)

    def doubt(self, disagreement_BVKTJ: Tensor) -> Tensor:
        """What it adds to the opinion's doubt, [B, V, T, J]."""
        trust = _TRUST_UNIT * self.trust.to(disagreement_BVKTJ)
        return (trust[:, None, None] * disagreement_BVKTJ).sum(2)

    def read(self, disagreement_BVKTJ: Tensor) -> Tensor:
        """What it adds to the first layer that reads the evidence, [B, V, T, dim]."""
        by_patch = disagreement_BVKTJ.transpose(2, 3).flatten(3)
        return (by_patch - 0.5).to(self.reading.dtype) @ self.reading


def smoothed(values: Tensor, rows: int) -> Tensor:
    """The mean of each patch's value and of its 3 x 3 neighbourhood's, at equal depth [..., T, J],
    of patches in `rows` rows."""
    t, j = values.shape[-2:]
    grid = values.reshape(-1, rows, t // rows, j).permute(0, 3, 1, 2)
    around = functional.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
    return ((grid + around) / 2).permute(0, 2, 3, 1).reshape(values.shape)
