"""Where was this picture taken? A query without a camera, answered against frames that are known.

Every reference says a pose of its own: matches of its points, which have depths, by weighted least
squares. The poses are averaged on SE(3), each with its information, and those that agree with no
other count little: many-to-one, as in HorizonStream (arXiv 2605.23889), whose frames get relative
poses to all frames of a window, merged by rotation and translation averaging.

Poses here are world-to-camera matrices G, changed from the left: exp(xi) G, so that the references'
information about xi is in the same axes, those of the new camera. Shapes: N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from everview.models.pairs.geometry import (
    PoseFit,
    exp_se3,
    fit_pose,
    inverse_rigid,
    log_se3,
    nearest_rigid,
)
from everview.models.pairs.matcher import FrameCode, Matches, PairMatcher, rays_of, to_plane
from everview.models.pairs.two_view import epipolar_motion, essential, line_support, stepped

_CUTOFF_PX = 3.0
_MOST = 0.5
_FINEST_PX = 0.3
_LEAST_DEPTH_ERROR = 0.1
_STEPS = 14
# A fit to depths that fewer of the matches agree with than this is compared with one that needs
# none, which is taken when so much more of the matches lie on its epipolar lines.
_PLAIN, _MORE = 0.85, 0.03
_FARTHEST_TURN = 1.6  # radians: lines fit what is upside down too, and no match reaches so far
_LINE_PX, _FREE_DEPTH, _LINE_STEPS, _LINE_WIDEST = 1.0, 0.5, 6, 2.0
# Two estimates agree when they differ by less than this much of a radian or of the median depth, or
# than this many standard deviations, of which matches that err together make too little.
_AGREE, _DEVIATIONS, _FARTHEST = 0.04, 4.0, 0.15
_AS_SURE = 2.0


@dataclass(frozen=True, eq=False)
class Reference:
    """A known frame, up to scale. code: its `describe` [1, ...]; size: (height, width) pixels;
    intrinsics float64 [4]; w2c float64 [4, 4]; rho float64 [N]: inverse depths of its points;
    spread float64 [N]: standard deviations of their logarithms."""

    code: FrameCode
    size: tuple[int, int]
    intrinsics: Tensor
    w2c: Tensor
    rho: Tensor
    spread: Tensor

    @property
    def rays(self) -> Tensor:
        """Its points in the plane z = 1, float64 [N, 2]."""
        return rays_of(self.intrinsics[None], *self.size)[0]

    @property
    def nearness(self) -> float:
        """Median inverse depth: what turns its lengths into shares of the median depth."""
        return float(self.rho.median().clamp(min=1e-9))


@dataclass(frozen=True, eq=False)
class Sighting:
    """What one reference says. place: its position among the references. w2c float64 [4, 4];
    information float64 [6, 6] of xi; support: share of the weight of its matches that agrees, 0 to
    1; shared: share of its points that are seen in the new frame; target [N, 2] in the new frame's
    plane and weight [N] in units of that plane: the matches themselves."""

    place: int
    w2c: Tensor
    information: Tensor
    support: float
    shared: float
    target: Tensor
    weight: Tensor

    @property
    def trust(self) -> float:
        """One number to choose by, 0 to 1."""
        return self.support * min(1.0, self.shared / 0.3)

    @property
    def is_finite(self) -> bool:
        """Whether it is a pose at all: matches that say nothing can leave none."""
        parts = (self.w2c, self.information, torch.tensor(self.trust))
        return all(bool(torch.isfinite(part).all()) for part in parts)

    def deviation(self, nearness: float) -> float:
        """Standard deviation of the pose, in radians and shares of the median depth together."""
        scale = torch.tensor([1.0 / nearness] * 3 + [1.0] * 3, dtype=self.w2c.dtype)
        information = scale[:, None] * self.information * scale
        eye = torch.eye(6, dtype=self.w2c.dtype)
        ridge = 1e-9 * information.diagonal().mean().clamp(min=1e-9)
        return float(torch.linalg.inv(information + ridge * eye).diagonal().sum().sqrt())


def sight(
    matcher: PairMatcher,
    code: FrameCode,
    intrinsics: Tensor,
    references: Sequence[Reference],
    guess: Tensor | None = None,
) -> list[Sighting]:
    """What every reference says of a frame, in their order. code: the frame's; intrinsics float64
    [4]; guess float64 [4, 4]: its world-to-camera. Where most matches don't agree, it is started
    from the reference's own pose too."""
    found: list[Sighting] = []
    groups: dict[int, list[int]] = {}
    for place, reference in enumerate(references):
        groups.setdefault(len(reference.rho), []).append(place)
    for places in groups.values():
        found += _sight_together(matcher, code, intrinsics, references, places, guess)
    return sorted(found, key=lambda one: one.place)


def _sight_together(
    matcher: PairMatcher,
    code: FrameCode,
    intrinsics: Tensor,
    references: Sequence[Reference],
    places: list[int],
    guess: Tensor | None,
) -> list[Sighting]:
    """References with as many points: their fits are one batch, their matches are not, so that they
    don't depend on what else is asked."""
    chosen = [references[place] for place in places]
    told = []
    for reference in chosen:
        with torch.inference_mode():
            told.append(in_plane(matcher.compare(reference.code, code), intrinsics))
    w2c = torch.stack([reference.w2c for reference in chosen])
    points = _Points(
        rays=torch.stack([reference.rays for reference in chosen]),
        rho=torch.stack([reference.rho for reference in chosen]),
        depth_error=torch.stack([one.spread for one in chosen]).clamp(min=_LEAST_DEPTH_ERROR),
        target=torch.stack([target for target, _, _ in told]),
        weight=torch.stack([weight for _, weight, _ in told]),
    )
    cutoff = _CUTOFF_PX / float(intrinsics[0])
    own = torch.eye(4, dtype=torch.float64).expand_as(w2c)
    fit = _fit(points, own if guess is None else guess @ inverse_rigid(w2c), cutoff)
    weak = fit.support < _MOST
    if guess is not None and bool(weak.any()):
        other = _fit(points[weak], own[weak], cutoff)
        better = torch.zeros_like(weak)
        better[weak] = other.support > fit.support[weak]
        taken = other.support > fit.support[weak]
        for old, new in zip(fit, other, strict=True):
            old[better] = new[taken]
    for row in (fit.support < _PLAIN).nonzero().flatten().tolist():
        free = _fit_lines(points[[row]], fit.motion[row], float(intrinsics[0]))
        if free is not None:
            for old, new in zip(fit, free, strict=True):
                old[row] = new[0]
    return [
        Sighting(
            place=place,
            w2c=fit.motion[row] @ w2c[row],
            information=fit.information[row],
            support=float(fit.support[row]),
            shared=told[row][2],
            target=points.target[row],
            weight=points.weight[row],
        )
        for row, place in enumerate(places)
    ]


@dataclass(frozen=True, eq=False)
class _Points:
    """Of B references: rays, target [B, N, 2]; rho, depth_error (of its log), weight [B, N]."""

    rays: Tensor
    rho: Tensor
    depth_error: Tensor
    target: Tensor
    weight: Tensor

    def __getitem__(self, index: Tensor | list[int]) -> _Points:
        return _Points(*(getattr(self, field.name)[index] for field in fields(self)))


def _fit(points: _Points, start: Tensor, cutoff: float) -> PoseFit:
    """From starts [B, 4, 4]."""
    return fit_pose(
        points.rays, points.rho, points.target, points.weight, start, _STEPS, cutoff,
        spread=points.depth_error,
    )  # fmt: skip


def _fit_lines(points: _Points, motion: Tensor, focal: float) -> PoseFit | None:
    """One reference's pose from epipolar lines, its depths saying no more than how long the step
    was; None where that puts no more matches on their lines than `motion` [4, 4] does."""
    rays, target, weight = points.rays[0], points.target[0], points.weight[0]
    pixel = _LINE_PX / focal

    def on_lines(motion: Tensor) -> float:
        return float(line_support(rays, target, weight, essential(motion), pixel))

    start = epipolar_motion(rays, target, weight, pixel)
    if start is None:
        return None
    step = stepped(rays, target, weight, start, points.rho[0], points.depth_error[0], pixel)
    if step is None:
        return None
    fit = fit_pose(
        points.rays, step.rho[None], points.target, points.weight, step.motion[None],
        _LINE_STEPS, _CUTOFF_PX / focal, _LINE_WIDEST,
        spread=points.depth_error.clamp(min=_FREE_DEPTH),
    )  # fmt: skip
    turn = float(log_se3(fit.motion[0])[3:].norm())
    is_better = on_lines(fit.motion[0]) > on_lines(motion) + _MORE
    return fit if is_better and turn < _FARTHEST_TURN else None


def in_plane(matches: Matches, intrinsics: Tensor) -> tuple[Tensor, Tensor, float]:
    """One pair's matches in the plane z = 1 of b: target float64 [N, 2], weight float64 [N] and the
    share of points that are visible."""
    target = to_plane(matches.position.cpu().double().flatten(1, 2), intrinsics[None])[0]
    error = matches.log_error.cpu().double().flatten().exp().square() + _FINEST_PX**2
    visible = matches.visible.cpu().double().flatten().sigmoid()
    return target, visible / error * intrinsics[0].square(), float(visible.mean())


@dataclass(frozen=True, eq=False)
class Located:
    """w2c float64 [4, 4]: where the frame was taken. sightings: those that were averaged; others:
    those that disagreed or said too little."""

    w2c: Tensor
    sightings: tuple[Sighting, ...]
    others: tuple[Sighting, ...]


def average(
    sightings: Sequence[Sighting], nearness: float, least: float, firm: float = 1.0
) -> Located | None:
    """The pose that the sightings say together; None when none has a trust of `least`.

    Of those with a trust of `firm`, the first that is about as sure as the surest begins, or else
    the most trusted; the others join where they agree with it. Given oldest first, a place that is
    seen again thus corrects what has drifted since. nearness: one over the length that shifts are
    compared with.
    """
    sightings = [one for one in sightings if one.is_finite]
    best = max(sightings, key=lambda one: one.trust, default=None)
    if best is None or best.trust < least:
        return None
    deviation = {id(one): one.deviation(nearness) for one in sightings}
    sure = [one for one in sightings if one.trust >= min(firm, best.trust)]
    surest = min(deviation[id(one)] for one in sure)
    begin = next(one for one in sure if deviation[id(one)] <= _AS_SURE * surest)
    mean = begin.w2c
    scale = torch.tensor([nearness] * 3 + [1.0] * 3, dtype=mean.dtype)

    def agrees(one: Sighting) -> bool:
        apart = float((log_se3(one.w2c @ inverse_rigid(begin.w2c)) * scale).norm())
        expected = _DEVIATIONS * (deviation[id(one)] ** 2 + deviation[id(begin)] ** 2) ** 0.5
        return apart < min(max(_AGREE, expected), _FARTHEST)

    joined = [one for one in sightings if one.trust >= least and agrees(one)]
    for _ in range(3):
        apart = torch.stack([log_se3(one.w2c @ inverse_rigid(mean)) for one in joined])
        off = (apart * scale).norm(dim=-1) / (0.25 * _AGREE)
        weights = torch.stack([one.information * one.trust for one in joined])
        weights = weights / (1.0 + off.square())[:, None, None]
        total = weights.sum(0)
        ridge = 1e-9 * total.diagonal().mean() * torch.eye(6, dtype=total.dtype)
        moved = torch.linalg.solve(total + ridge, (weights @ apart[..., None]).sum(0)[:, 0])
        mean = exp_se3(moved) @ mean
    kept = {id(one) for one in joined}
    return Located(
        nearest_rigid(mean), tuple(joined), tuple(one for one in sightings if id(one) not in kept)
    )
