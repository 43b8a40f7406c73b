"""What a pair matcher is trained on: the loss of some pairs, both ways.

    coarse      - log p(the token in which the match lies)
    steps       sum_k 0.8^(K - k) |position_k - truth|
    likelihood  |position - truth|_1 / b + 2 log b, b = exp(log_error): Laplace
    visible     cross entropy
    depth       |d| / b + log b,  d = log depth - truth - the frame's median of that
    place       cross entropy of the shared share; frames of other scenes share nothing
    pose        angle + shift error / median depth of the pose that weighted matches give, from a
                start nearby, with depths that err: the weights learn what helps a pose

Shapes: P pairs, N points, M tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from everview.models.pairs.config import COARSE, STRIDE
from everview.models.pairs.geometry import exp_se3, fit_pose, rotation_error
from everview.models.pairs.matcher import FrameCode, Matches, PairMatcher, swapped, to_plane
from everview.pipeline.training.pairs.truth import PairTruth, PairViews, pair_truth
from everview.pipeline.training.precision import mixed_precision

_DECAY = 0.8
_FARTHEST = 32.0  # pixels: errors beyond it pull no harder
_LEAST_SHARED = 0.15
_START_TURN, _START_SHIFT, _DEPTH_NOISE = 0.03, 0.03, 0.1
_POSE_STEPS = 3


def pair_loss(
    model: PairMatcher, pairs: PairViews, weights: Mapping[str, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the parts with a positive weight, and the parts, scalars."""
    with mixed_precision(model.device):
        a = model.describe(pairs.images_a, pairs.intrinsics_a)
        b = model.describe(pairs.images_b, pairs.intrinsics_b)
        matches = model.compare(*swapped(a, b))
    ways = pairs.both_ways()
    truth = pair_truth(ways, STRIDE)
    seen = (truth.visible & truth.judged).float()
    shared = (truth.visible & truth.known).float().mean(1)
    parts = {
        "coarse": _coarse(matches, pair_truth(ways, COARSE), pairs.size),
        "steps": _steps(matches, truth, seen),
        "likelihood": _likelihood(matches, truth, seen),
        "visible": _mean(
            functional.binary_cross_entropy_with_logits(
                matches.visible.flatten(1), truth.visible.float(), reduction="none"
            ),
            truth.judged.float(),
        ),
        "depth": _depth(FrameCode.joined([a, b]), truth),
        "place": _place(model, a, b, shared),
    }
    if weights["pose"] > 0:
        parts["pose"] = _pose(matches, ways, truth, shared)
    total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    return total, parts


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def _coarse(matches: Matches, truth: PairTruth, size: int) -> Tensor:
    columns = size // COARSE
    cell = (truth.position / COARSE).floor().clamp(0, columns - 1).long()
    wanted = cell[..., 1] * columns + cell[..., 0]
    found = matches.coarse.gather(-1, wanted[..., None])[..., 0]
    return _mean(-found, (truth.visible & truth.judged).float())


def _steps(matches: Matches, truth: PairTruth, seen: Tensor) -> Tensor:
    error = (matches.steps.flatten(2, 3) - truth.position).abs().clamp(max=_FARTHEST).sum(-1)
    last = len(error) - 1
    decay = torch.tensor([_DECAY ** (last - k) for k in range(last + 1)], device=error.device)
    return _mean((error * decay[:, None, None]).sum(0), seen)


def _likelihood(matches: Matches, truth: PairTruth, seen: Tensor) -> Tensor:
    error = (matches.position.flatten(1, 2) - truth.position).abs().clamp(max=_FARTHEST).sum(-1)
    log_error = matches.log_error.flatten(1)
    return _mean(error * (-log_error).exp() + 2.0 * log_error, seen)


def _depth(code: FrameCode, truth: PairTruth) -> Tensor:
    """truth: of a then b, as `swapped` has them."""
    off = code.log_depth.flatten(1) + truth.rho.clamp(min=1e-6).log()
    middle = torch.where(truth.known, off, torch.nan).nanmedian(1, keepdim=True).values
    off = (off - middle.nan_to_num()).abs().clamp(max=3.0)
    log_error = code.log_depth_error.flatten(1)
    return _mean(off * (-log_error).exp() + log_error, truth.known.float())


def _place(model: PairMatcher, a: FrameCode, b: FrameCode, shared: Tensor) -> Tensor:
    count = len(a.place)
    mean = (shared[:count] + shared[count:]) / 2
    # pairs of one batch may come from one scene; that is rare and no harm
    logits = model.overlap_logit(a.place[:, None], b.place[None])
    wanted = torch.diag(mean)
    weight = torch.full_like(wanted, 1.0 / max(count - 1, 1)).fill_diagonal_(1.0)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return _mean(entropy, weight)


def _pose(matches: Matches, ways: PairViews, truth: PairTruth, shared: Tensor) -> Tensor:
    count, points = truth.rho.shape
    noise = torch.randn(count, 6 + points, device=truth.rho.device)
    reach = torch.tensor([_START_SHIFT] * 3 + [_START_TURN] * 3, device=noise.device)
    start = exp_se3(noise[:, :6] * reach) @ truth.motion
    rho = truth.rho * (_DEPTH_NOISE * noise[:, 6:]).exp()
    target = to_plane(matches.position.flatten(1, 2), ways.intrinsics_b)
    weight = matches.confidence.flatten(1) * truth.known
    weight = weight / weight.mean(1, keepdim=True).clamp(min=1e-6)
    fit = fit_pose(truth.rays, rho, target, weight, start, steps=_POSE_STEPS, widest=4.0)
    turn = rotation_error(fit.motion[:, :3, :3], truth.motion[:, :3, :3])
    shift = (fit.motion[:, :3, 3] - truth.motion[:, :3, 3]).norm(dim=-1)
    error = 10.0 * turn.clamp(max=0.1) + 10.0 * shift.clamp(max=0.1)
    return _mean(error, (shared > _LEAST_SHARED).float())
