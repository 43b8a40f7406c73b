"""Cameras of RGB-D frames, one after another: odometry against keyframes.

Each frame is registered with the last keyframe, not with the last frame, so that standing still
adds no drift; where that doesn't hold, with the last posed frame, which then becomes a keyframe,
and with the keyframes before. Two starts are tried: matched features (far apart, turned), and the
motion going on as it did (few features); each is refined densely, and what is taken is judged by
warping one frame into the other. When none holds, or what holds is a jump, the frame has no camera
and says why: nothing is guessed.

Causal and of fixed memory: the last keyframes and the last frame are all that is kept. The same
frames give the same poses, stopped and resumed or not: bit for bit where Open3D does. The world is
the first frame's camera, in the unit of its depth.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from everview.datasets.cameras import Camera, invert_rigid
from everview.datasets.captures import Frame
from everview.datasets.lenses import Lens
from everview.datasets.poses import rigid_pose
from everview.datasets.resampling import fit_frame
from everview.pipeline.errors import UsageError
from everview.pipeline.posing.agreement import NONE, Agreement, agreement, known_depth
from everview.pipeline.posing.features import FeatureMatcher, Features
from everview.pipeline.posing.posed import Posed, without_pose
from everview.pipeline.posing.refinement import Refiner
from everview.pipeline.posing.trajectory_errors import Alignment, TrajectoryErrors, rotation_angle
from everview.pipeline.streaming.frame_tensors import (
    frames_from_tensors,
    frames_to_tensors,
    under_prefix,
    with_prefix,
)

_LEAST_KNOWN = 0.05
"""share of the pixels whose depth must be known"""


@dataclass(frozen=True)
class OdometryLimits:
    """Shares are 0 to 1. Raises UsageError with the value and the limit."""

    keyframes: int = 4
    """kept, for a registration that fails with the last one"""
    short_side: int = 240
    """pixels that frames are registered at, at most"""
    least_overlap: float = 0.15
    """of a frame's known depth that must fall on the keyframe's"""
    least_depth: float = 0.8
    """of those points that must lie where the keyframe says"""
    least_picture: float = 0.6
    """correlation of their grey values"""
    sure: float = 0.93
    """a registration of this score is taken without trying another start"""
    next_overlap: float = 0.65
    """below this a frame becomes a keyframe"""
    next_turn_deg: float = 15.0
    """so it does when it is turned further than this"""
    next_move: float = 0.15
    """or has moved further than this share of the median depth"""
    next_score: float = 0.85
    """or agrees with the keyframe less than this"""
    jump_turn_deg: float = 60.0
    """a turn from one frame to the next that is not believed (after n lost frames, n + 1 times)"""
    jump_move: float = 0.5
    """a move, as a share of the median depth, that is not believed (after lost frames likewise)"""

    def __post_init__(self) -> None:
        if not 1 <= self.keyframes <= 64:
            raise UsageError(f"keyframes {self.keyframes}: 1 to 64")
        if self.short_side < 32:
            raise UsageError(f"short_side {self.short_side}: at least 32 pixels")


@dataclass(frozen=True, eq=False)
class _Keyframe:
    """frame: at the size of registration, with its camera. features: found in it."""

    frame: Frame
    features: Features

    @property
    def c2w_cv(self) -> np.ndarray:
        assert self.frame.camera is not None
        return self.frame.camera.c2w_cv

    @property
    def middle(self) -> float:
        """Median of the known depth."""
        depth = known_depth(self.frame)
        return float(np.median(depth[depth > 0]))


@dataclass(frozen=True, eq=False)
class _Registration:
    """motion: keyframe from frame, [4, 4]. doubt: why it isn't believed; None if it is."""

    key: _Keyframe
    motion: np.ndarray
    holds: Agreement
    doubt: str | None


class Odometer:
    """Gives frames their cameras, in order. `to_facts` and `to_tensors` are its whole state.

    errors: against the poses that the frames came with, if they did. counts: posed, keyframes,
    retried (held, but not against the last keyframe), lost.
    """

    name = "odometry"
    alignment: Alignment = "SE3"

    def __init__(self, lens: Lens | None = None, limits: OdometryLimits | None = None) -> None:
        """lens: of frames that come without a camera, pinhole. Raises EnvironmentUnfit without
        Open3D or pycolmap."""
        self.limits = limits or OdometryLimits()
        self.errors = TrajectoryErrors()
        self.counts: Counter[str] = Counter()
        self._lens = lens
        self._keyframes: deque[_Keyframe] = deque(maxlen=self.limits.keyframes)
        self._previous: _Keyframe | None = None
        self._last = self._step = np.eye(4)
        self._lost_in_a_row = 0
        self._matcher, self._refiner = FeatureMatcher(), Refiner()

    def pose(self, frame: Frame) -> Posed:
        """The next frame of the stream with the camera that was found for it.

        Of a camera it comes with only the intrinsics are used; the pose is what it is measured by.
        """
        camera = self._intrinsics(frame)
        if camera is None:
            return self._refused(frame, "no depth or no intrinsics for odometry")
        small = fit_frame(
            replace(frame, camera=camera),
            min(self.limits.short_side, *frame.image.shape[:2]), square=False, multiple_of=1,
        )  # fmt: skip
        if (known_depth(small) > 0).mean() < _LEAST_KNOWN:
            return self._refused(frame, "too little depth for odometry")
        previous = self._previous
        if previous is not None and np.array_equal(small.image, previous.frame.image):
            return self._stayed(frame)
        features = self._matcher.find(small.image)
        if not self._keyframes:
            return self._taken(frame, _Keyframe(small, features), is_key=True)
        best: _Registration | None = None
        for key in self._references():
            if key.frame.image.shape != small.image.shape:
                continue  # another resolution or orientation
            found = self._register(small, features, key)
            if found.doubt is None:
                return self._placed(frame, small, features, found)
            best = best or found
        if best is None:
            return self._refused(frame, "odometry lost: the picture's size changed")
        return self._refused(frame, f"odometry lost: {best.doubt}")

    def _references(self) -> list[_Keyframe]:
        """What a frame is registered with, in order."""
        newest, *older = reversed(self._keyframes)
        previous = self._previous
        between = [] if previous is None or previous is newest else [previous]
        return [newest, *between, *older]

    # --- one registration ---

    def _register(self, small: Frame, features: Features, key: _Keyframe) -> _Registration:
        """The best of the starts, refined; `doubt` where it doesn't hold."""
        predicted = invert_rigid(key.c2w_cv) @ self._last @ self._step
        matched = self._matcher.start(small, features, key.frame, key.features)
        starts = [predicted] if matched is None else [matched.motion, predicted]
        best, holds = predicted, NONE
        for start in starts:
            refined = self._refiner.refine(small, key.frame, start)
            for motion in (start, refined):
                if motion is None:
                    continue
                measured = agreement(small, key.frame, motion)
                if measured.score > holds.score:
                    best, holds = motion, measured
            if holds.score >= self.limits.sure:
                break
        return _Registration(key, best, holds, self._doubt(key, best, holds))

    def _doubt(self, key: _Keyframe, motion: np.ndarray, holds: Agreement) -> str | None:
        limits = self.limits
        if holds.overlap < limits.least_overlap:
            return f"{holds.overlap:.0%} of it overlaps with the keyframe"
        if holds.depth < limits.least_depth:
            return f"depth agrees at {holds.depth:.0%} of the points"
        if holds.picture < limits.least_picture:
            return f"the pictures correlate by {holds.picture:.2f}"
        step = invert_rigid(self._last) @ key.c2w_cv @ motion
        turn = np.degrees(rotation_angle(step[:3, :3]))
        move = float(np.linalg.norm(step[:3, 3]))
        frames = 1 + self._lost_in_a_row
        if turn > frames * limits.jump_turn_deg or move > frames * limits.jump_move * key.middle:
            return f"it jumps by {move:.3g} and {turn:.0f} degrees"
        return None

    # --- what comes of it ---

    def _placed(
        self, frame: Frame, small: Frame, features: Features, found: _Registration
    ) -> Posed:
        # products of rotations are rotations only up to rounding, and that adds up
        c2w_cv = rigid_pose(found.key.c2w_cv @ found.motion)
        self._step = rigid_pose(invert_rigid(self._last) @ c2w_cv)
        newest = self._keyframes[-1]
        if found.key is not newest:
            self.counts["retried"] += 1
        if found.key is self._previous and found.key is not newest:
            self._add_keyframe(found.key)
        assert small.camera is not None
        placed = _Keyframe(replace(small, camera=small.camera.moved(c2w_cv)), features)
        return self._taken(frame, placed, found.key is self._keyframes[-1] and self._is_far(found))

    def _is_far(self, found: _Registration) -> bool:
        limits = self.limits
        turn = np.degrees(rotation_angle(found.motion[:3, :3]))
        move = float(np.linalg.norm(found.motion[:3, 3]))
        is_apart = turn > limits.next_turn_deg or move > limits.next_move * found.key.middle
        is_weak = found.holds.score < limits.next_score
        return is_apart or is_weak or found.holds.overlap < limits.next_overlap

    def _taken(self, frame: Frame, placed: _Keyframe, is_key: bool) -> Posed:
        camera = self._intrinsics(frame)
        assert camera is not None
        self._last, self._previous, self._lost_in_a_row = placed.c2w_cv, placed, 0
        self.counts["posed"] += 1
        if is_key:
            self._add_keyframe(placed)
        if frame.camera is not None:
            self.errors.add(self._last, frame.camera.c2w_cv)
        return Posed(replace(frame, camera=camera.moved(self._last)))

    def _stayed(self, frame: Frame) -> Posed:
        """The same picture again: a frozen camera must not seem to move by rounding."""
        assert self._previous is not None
        return self._taken(frame, self._previous, is_key=False)

    def _add_keyframe(self, key: _Keyframe) -> None:
        self._keyframes.append(key)
        self.counts["keyframes"] += 1

    def _refused(self, frame: Frame, problem: str) -> Posed:
        self.counts["lost"] += 1
        self._lost_in_a_row += 1
        return Posed(replace(frame, camera=None), problem)

    def _intrinsics(self, frame: Frame) -> Camera | None:
        """Without its pose; None when the frame can't be registered at all."""
        image = frame.image
        if frame.depth is None or image.dtype != np.uint8 or image.ndim != 3:
            return None
        return without_pose(frame, self._lens)

    def points_world(self) -> np.ndarray | None:
        """None: the frames' depth tells the scale."""
        return None

    # --- snapshots ---

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot, JSON-compatible; `to_tensors` has the keyframes."""
        return {
            "keyframes": len(self._keyframes),
            "lost_in_a_row": self._lost_in_a_row,
            "last": self._last.tolist(),
            "step": self._step.tolist(),
            "counts": dict(self.counts),
            "errors": self.errors.to_facts(),
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """The keyframes and the last posed frame."""
        tensors: dict[str, Tensor] = {}
        for place, key in enumerate(self._keyframes):
            tensors |= with_prefix(str(place), frames_to_tensors([key.frame]))
        if self._previous is not None and self._previous is not self._keyframes[-1]:
            tensors |= with_prefix("previous", frames_to_tensors([self._previous.frame]))
        return tensors

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from `to_facts` and `to_tensors`. Raises ValueError when they don't fit."""
        self._keyframes.clear()
        for place in range(int(facts["keyframes"])):
            self._keyframes += self._found_again(under_prefix(str(place), tensors))
        previous = self._found_again(under_prefix("previous", tensors)) or [*self._keyframes][-1:]
        self._previous = previous[0] if previous else None
        self._lost_in_a_row = int(facts["lost_in_a_row"])
        self._last = np.array(facts["last"], np.float64).reshape(4, 4)
        self._step = np.array(facts["step"], np.float64).reshape(4, 4)
        self.counts = Counter(facts["counts"])
        self.errors = TrajectoryErrors.from_facts(facts["errors"])

    def _found_again(self, tensors: dict[str, Tensor]) -> list[_Keyframe]:
        frames = frames_from_tensors(tensors) if tensors else []
        return [_Keyframe(frame, self._matcher.find(frame.image)) for frame in frames]
