"""Cameras of frames that come with a lens and nothing else: matched with keyframes by a network.

Each frame is looked for from several keyframes: the newest, and those whose place it resembles
most, wherever they are; so standing still adds no drift, a place that is seen again corrects what
drifted since, and a lost stream goes on where it sees something it knows. Their estimates are
averaged (`everview.models.pairs.locating`). A frame that shares too little with all of them becomes
a keyframe: matches both ways, depths from the network, the neighbours and parallax, adjusted over
the last few keyframes. When no estimate holds, or what holds is a jump, the frame has no camera and
says why.

The world is the first frame's camera, its unit the median depth that the network sees in that
frame. That scale is carried on: by keyframes' depths, and where they see nothing of a new frame, by
a token, the last offset between the log depths that the network sees and those of the map.

Causal and of fixed memory. What was given out is never changed; corrections hold from then on. The
same frames give the same poses, bit for bit, stopped and resumed or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.datasets.lenses import Lens
from everview.datasets.poses import rigid_pose
from everview.datasets.resampling import fit_frame
from everview.models.pairs.config import COARSE
from everview.models.pairs.files import load_matcher
from everview.models.pairs.geometry import exp_se3, inverse_rigid, log_se3
from everview.models.pairs.locating import Located, Reference, Sighting, average, in_plane, sight
from everview.models.pairs.matcher import FrameCode, PairMatcher
from everview.pipeline.errors import UsageError
from everview.pipeline.posing.learned.keyframes import Keyframe, KeyframeMap, described, landed
from everview.pipeline.posing.posed import Posed, without_pose
from everview.pipeline.posing.trajectory_errors import Alignment, TrajectoryErrors
from everview.pipeline.streaming.frame_tensors import (
    frames_from_tensors,
    frames_to_tensors,
    under_prefix,
    with_prefix,
)

_LEAST_SPREAD = 0.3
"""of a log depth that the network sees: it errs by less, but over whole regions at once, so that
its points together are no surer than a few; and of a keyframe's depths before adjusting"""
_BROUGHT_SPREAD = 0.1
"""of a log depth that another keyframe's point brings"""


@dataclass(frozen=True)
class LearnedLimits:
    """Shares are 0 to 1. Raises UsageError with the value and the limit."""

    keyframes: int = 48
    """kept, the newest of those that are alike going first"""
    window: int = 6
    """newest keyframes whose poses and depths are adjusted"""
    references: int = 3
    """keyframes that a frame is looked for from"""
    short_side: int = 128
    """pixels that frames are matched at; a multiple of 8"""
    least_trust: float = 0.45
    """of the best estimate"""
    firm_trust: float = 0.6
    """of an estimate that may correct younger ones, and that may be a jump"""
    next_shared: float = 0.7
    """a frame of which no keyframe shares more becomes one"""
    next_support: float = 0.65
    """so does one whose best estimate is supported less"""
    jump_turn_deg: float = 60.0
    """a turn from one frame to the next that is not believed (after n lost frames, n + 1 times)"""
    jump_move: float = 0.5
    """a move, as a share of the median depth, that is not believed (after lost frames likewise)"""

    def __post_init__(self) -> None:
        if not 2 <= self.window < self.keyframes <= 512:
            raise UsageError(
                f"window {self.window} of {self.keyframes} keyframes: at least 2, and fewer than "
                "the keyframes, which are at most 512"
            )
        if not 1 <= self.references <= 16:
            raise UsageError(f"references {self.references}: 1 to 16")
        if self.short_side < 4 * COARSE:
            raise UsageError(f"short_side {self.short_side}: at least {4 * COARSE} pixels")


@dataclass(frozen=True, eq=False)
class _Looked:
    """A frame as the network sees it. small: at the size of matching, its camera at no pose."""

    small: Frame
    code: FrameCode
    size: tuple[int, int]
    intrinsics: Tensor


class LearnedOdometer:
    """Gives frames their cameras, in order. `to_facts` and `to_tensors` are its whole state.

    errors: against the poses that the frames came with, if they did. counts: posed, keyframes,
    closed (a known place corrected the pose), lost. sightings: of the last frame, by the numbers of
    their keyframes, whether it was posed or not.
    """

    name = "learned"
    alignment: Alignment = "Sim3"

    def __init__(
        self,
        lens: Lens | None = None,
        limits: LearnedLimits | None = None,
        matcher: PairMatcher | None = None,
    ) -> None:
        """lens: of frames that come without a camera, pinhole. matcher: default the published one.
        Raises WeightsError when that can't be read."""
        self.limits = limits or LearnedLimits()
        self.errors = TrajectoryErrors()
        self.counts: Counter[str] = Counter()
        self.sightings: tuple[Sighting, ...] = ()
        self._matcher = matcher or load_matcher()
        self._lens = lens
        self._map = KeyframeMap(self.limits.keyframes, self.limits.window)
        self._c2w_cv = np.eye(4)
        self._last = torch.eye(4, dtype=torch.float64)  # the same, world-to-camera
        self._step = torch.eye(4, dtype=torch.float64)  # the last frame's axes to the next one's
        self._lost_in_a_row = 0
        self._scale = 0.0
        self._previous: np.ndarray | None = None

    def pose(self, frame: Frame) -> Posed:
        """The next frame of the stream with the camera that was found for it.

        Of a camera it comes with only the intrinsics are used; the pose is what it is measured by.
        Depth, which has another unit, is left out.
        """
        self.sightings = ()
        camera = self._intrinsics(frame)
        if camera is None:
            return self._refused(frame, "no intrinsics for learned poses")
        looked = self._look(replace(frame, camera=camera, depth=None, mask=None))
        if self._previous is not None and np.array_equal(looked.small.image, self._previous):
            return self._given(frame, looked, self._c2w_cv)  # a frozen camera must not seem to move
        if not len(self._map):
            return self._first(frame, looked)
        self.sightings = sightings = self._sight(looked)
        newest = self._map.newest.reference
        found = average(sightings, newest.nearness, self.limits.least_trust, self.limits.firm_trust)
        if found is None:
            best = max(sightings, key=lambda one: one.trust)
            return self._refused(
                frame,
                f"learned poses lost: {best.support:.0%} of the matches agree, and "
                f"{best.shared:.0%} of a keyframe is seen",
            )
        if (doubt := self._doubt(found, newest.nearness)) is not None:
            return self._refused(frame, f"learned poses lost: {doubt}")
        return self._placed(frame, looked, found)

    # --- looking for a frame ---

    def _look(self, frame: Frame) -> _Looked:
        # small pictures are enlarged: the network was mostly trained at this size
        small = fit_frame(frame, self.limits.short_side, square=False, multiple_of=COARSE)
        assert small.camera is not None
        small = replace(small, camera=small.camera.moved(np.eye(4)))
        return _Looked(small, *described(self._matcher, small))

    def _references(self, looked: _Looked) -> list[Keyframe]:
        """What a frame is looked for from, oldest first: the newest keyframe, and those whose
        places it resembles most."""
        keys = self._map.keyframes
        newest, own = self._map.newest.number, looked.code.place
        with torch.inference_mode():
            alike = {
                number: float(self._matcher.overlap_logit(key.reference.code.place, own))
                for number, key in keys.items()
                if number != newest
            }
        ranked = sorted(alike, key=lambda number: (-alike[number], number))
        chosen = [newest, *ranked[: self.limits.references - 1]]
        return [keys[number] for number in sorted(chosen)]

    def _sight(self, looked: _Looked) -> tuple[Sighting, ...]:
        """What the references say, by their numbers, oldest first."""
        keys = self._references(looked)
        sightings = sight(
            self._matcher,
            looked.code,
            looked.intrinsics,
            [key.reference for key in keys],
            self._step @ self._last,
        )
        return tuple(replace(one, place=keys[one.place].number) for one in sightings)

    def _doubt(self, found: Located, nearness: float) -> str | None:
        limits = self.limits
        step = log_se3(found.w2c @ inverse_rigid(self._last))
        turn, move = float(step[3:].norm().rad2deg()), float(step[:3].norm())
        frames = 1 + self._lost_in_a_row
        is_far = turn > frames * limits.jump_turn_deg or move * nearness > frames * limits.jump_move
        if is_far and max(one.trust for one in found.sightings) < limits.firm_trust:
            return f"it jumps by {move * nearness:.2g} of the depth and {turn:.0f} degrees"
        return None

    # --- what comes of it ---

    def _first(self, frame: Frame, looked: _Looked) -> Posed:
        """The world's axes and unit: this camera, and the median depth that it seems to see."""
        seen = looked.code.log_depth.cpu().flatten().double()
        self._scale = -float(seen.median())
        log_rho = -(seen + self._scale)
        eye = torch.eye(4, dtype=torch.float64)
        self._add(looked, eye, log_rho, _spread(looked))
        return self._taken(frame, looked, eye)

    def _placed(self, frame: Frame, looked: _Looked, found: Located) -> Posed:
        w2c = found.w2c
        newest = self._map.newest.number
        is_closed = newest not in {one.place for one in found.sightings} and any(
            one.place == newest and one.trust > self.limits.least_trust for one in found.others
        )
        self.counts["closed"] += int(is_closed)
        shared = max(one.shared for one in found.sightings)
        support = max(one.support for one in found.sightings)
        if shared < self.limits.next_shared or support < self.limits.next_support or is_closed:
            w2c = self._new_keyframe(looked, found)
        return self._taken(frame, looked, w2c)

    def _new_keyframe(self, looked: _Looked, found: Located) -> Tensor:
        """Make the frame one; its pose after adjusting."""
        pixel = 1.0 / float(looked.intrinsics[0])
        points = looked.code.log_depth.numel()
        depth, weight = torch.zeros(2, points, dtype=torch.float64)
        for one in found.sightings:
            known = self._map.sharpened(one, found.w2c, pixel)
            more = landed(known, found.w2c, one.target, one.weight, looked.intrinsics, looked.size)
            depth, weight = depth + more[0], weight + more[1]
        seen = looked.code.log_depth.cpu().flatten().double()
        is_known = weight > 1e-3 * weight.max().clamp(min=1e-9)
        brought = depth / weight.clamp(min=1e-12)
        if float(is_known.double().mean()) > 0.05:
            self._scale = float((brought - seen)[is_known].median())
        spread = _spread(looked)
        own, other = spread.square().reciprocal(), is_known / _BROUGHT_SPREAD**2
        prior = -(own * (seen + self._scale) + other * brought) / (own + other)
        together = (own + other).rsqrt().clamp(min=_LEAST_SPREAD)
        number = self._add(looked, found.w2c, prior, together)
        key = self._map.keyframes[number]
        for one in found.sightings:
            other_key = self._map.keyframes.get(one.place)
            if other_key is None or other_key.reference.rho.shape != key.reference.rho.shape:
                continue
            self._map.links[one.place, number] = one.target, one.weight
            with torch.inference_mode():
                back = self._matcher.compare(looked.code, other_key.reference.code)
            target, trust, _ = in_plane(back, other_key.reference.intrinsics)
            self._map.links[number, one.place] = target, trust
        self._map.refine(pixel)
        return self._map.keyframes[number].reference.w2c

    def _add(self, looked: _Looked, w2c: Tensor, log_rho: Tensor, spread: Tensor) -> int:
        reference = Reference(
            looked.code, looked.size, looked.intrinsics, w2c, log_rho.exp(), spread
        )
        number = self._map.next_number
        self._map.add(Keyframe(looked.small, number, reference, log_rho, spread, self._scale))
        self.counts["keyframes"] += 1
        return number

    def _taken(self, frame: Frame, looked: _Looked, w2c: Tensor) -> Posed:
        # products of rotations are rotations only up to rounding, and that adds up
        return self._given(frame, looked, rigid_pose(inverse_rigid(w2c).numpy()))

    def _given(self, frame: Frame, looked: _Looked, c2w_cv: np.ndarray) -> Posed:
        camera = self._intrinsics(frame)
        assert camera is not None
        w2c = inverse_rigid(torch.from_numpy(c2w_cv))
        step = log_se3(w2c @ inverse_rigid(self._last)) / (1 + self._lost_in_a_row)
        self._step = exp_se3(step)
        self._c2w_cv, self._last, self._previous = c2w_cv, w2c, looked.small.image
        self._lost_in_a_row = 0
        self.counts["posed"] += 1
        if frame.camera is not None:
            self.errors.add(c2w_cv, frame.camera.c2w_cv)
        return Posed(replace(frame, camera=camera.moved(c2w_cv), depth=None))

    def _refused(self, frame: Frame, problem: str) -> Posed:
        self.counts["lost"] += 1
        self._lost_in_a_row += 1
        return Posed(replace(frame, camera=None), problem)

    def _intrinsics(self, frame: Frame) -> Camera | None:
        """Without its pose; None when the frame can't be matched at all."""
        image = frame.image
        if image.dtype != np.uint8 or image.ndim != 3 or min(image.shape[:2]) < COARSE:
            return None
        return without_pose(frame, self._lens)

    @property
    def keyframes(self) -> Mapping[int, Keyframe]:
        """Those that are kept, by number."""
        return MappingProxyType(self._map.keyframes)

    def points_world(self) -> np.ndarray | None:
        """The points of the newest keyframes, float32 [N, 3]; None before the first frame."""
        keys = [self._map.keyframes[number] for number in self._map.in_window()]
        return np.concatenate([_points(key) for key in keys]) if keys else None

    # --- snapshots ---

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot, JSON-compatible; `to_tensors` has the keyframes."""
        return {
            "keyframes": {str(n): key.scale for n, key in self._map.keyframes.items()},
            "links": [list(link) for link in self._map.links],
            "next_number": self._map.next_number,
            "lost_in_a_row": self._lost_in_a_row,
            "scale": self._scale,
            "last": self._c2w_cv.tolist(),
            "step": self._step.tolist(),
            "counts": dict(self.counts),
            "errors": self.errors.to_facts(),
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """The keyframes, the matches between them and the last posed picture."""
        tensors: dict[str, Tensor] = {}
        for number, key in self._map.keyframes.items():
            numbers = torch.stack(
                [key.reference.rho, key.reference.spread, key.prior, key.prior_spread]
            )
            own = frames_to_tensors([key.frame])
            own |= {"depths": numbers, "w2c": key.reference.w2c}
            tensors |= with_prefix(str(number), own)
        for (a, b), (target, weight) in self._map.links.items():
            tensors[f"link-{a}-{b}"] = torch.cat([target, weight[:, None]], -1)
        if self._previous is not None:
            tensors["previous"] = torch.from_numpy(self._previous.copy())
        return tensors

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from `to_facts` and `to_tensors`. Raises ValueError when they don't fit."""
        self._map = KeyframeMap(self.limits.keyframes, self.limits.window)
        for number, scale in facts["keyframes"].items():
            own = under_prefix(number, tensors)
            depths, w2c = own.pop("depths"), own.pop("w2c")
            (frame,) = frames_from_tensors(own)
            code, size, intrinsics = described(self._matcher, frame)
            if depths.shape != (4, code.log_depth.numel()):
                raise ValueError(f"{tuple(depths.shape)} depths of keyframe {number}")
            rho, spread, prior, prior_spread = depths.unbind()
            reference = Reference(code, size, intrinsics, w2c, rho, spread)
            self._map.keyframes[int(number)] = Keyframe(
                frame, int(number), reference, prior, prior_spread, float(scale)
            )
        for a, b in facts["links"]:
            matched = tensors[f"link-{a}-{b}"]
            self._map.links[int(a), int(b)] = matched[:, :2], matched[:, 2]
        self._map.next_number = int(facts["next_number"])
        self._previous = tensors["previous"].numpy() if "previous" in tensors else None
        self._lost_in_a_row = int(facts["lost_in_a_row"])
        self._scale = float(facts["scale"])
        self._c2w_cv = np.array(facts["last"], np.float64).reshape(4, 4)
        self._last = inverse_rigid(torch.from_numpy(self._c2w_cv))
        self._step = torch.tensor(facts["step"], dtype=torch.float64).view(4, 4)
        self.counts = Counter(facts["counts"])
        self.errors = TrajectoryErrors.from_facts(facts["errors"])


def _points(key: Keyframe) -> np.ndarray:
    reference = key.reference
    rays = torch.cat([reference.rays, torch.ones_like(reference.rays[:, :1])], -1)
    points = rays / reference.rho[:, None] @ key.c2w[:3, :3].T + key.c2w[:3, 3]
    return points.float().numpy()


def _spread(looked: _Looked) -> Tensor:
    """Standard deviations of the log depths that the network sees, float64 [N]."""
    return looked.code.log_depth_error.cpu().flatten().double().exp().clamp(min=_LEAST_SPREAD)
