"""Keyframes of learned odometry: bounded, each with depths, and the matches between neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from everview.datasets.captures import Frame
from everview.models.pairs.config import STRIDE
from everview.models.pairs.geometry import inverse_rigid, log_se3, transfer
from everview.models.pairs.locating import Reference, Sighting
from everview.models.pairs.matcher import FrameCode, PairMatcher
from everview.models.pairs.two_view import triangulate
from everview.pipeline.posing.learned.adjustment import MatchedPairs, adjust

_UNSURE = 0.3  # of a keyframe's log depths, at least, beside what new matches say
_FINEST = 0.05  # of a log depth that matches say, at best: the frame's pose errs too
_COARSEST, _OFF_PX = 0.5, 2.0

Link = tuple[int, int]
"""numbers of two keyframes: the first one's points, seen in the second"""


@dataclass(frozen=True, eq=False)
class Keyframe:
    """frame: at the size of matching; its camera's pose is not kept up. number: how many came
    before. prior, prior_spread float64 [N]: of log inverse depths. scale: the token, what to add to
    the log depth of a picture to have it in the stream's unit."""

    frame: Frame
    number: int
    reference: Reference
    prior: Tensor
    prior_spread: Tensor
    scale: float

    @property
    def c2w(self) -> Tensor:
        """Its pose, float64 [4, 4]."""
        return inverse_rigid(self.reference.w2c)


def view_distance(a: Tensor, nearness_a: Tensor, b: Tensor, nearness_b: Tensor) -> Tensor:
    """Shift in shares of the median depth plus turn in radians, [...], between frames whose
    world-to-camera matrices are a and b [..., 4, 4]; nearness [...]: of what each sees."""
    apart = log_se3(a @ inverse_rigid(b))
    shift = apart[..., :3].norm(dim=-1) * (nearness_a * nearness_b).sqrt()
    return shift + apart[..., 3:].norm(dim=-1)


class KeyframeMap:
    """At most `capacity` keyframes by number, and the matches that the newest `window` of them take
    part in. Keyframes come in order; the newest of two alike leaves, so that places keep the pose
    they had when they were first seen, before anything could drift."""

    def __init__(self, capacity: int, window: int) -> None:
        self.capacity, self.window = capacity, window
        self.keyframes: dict[int, Keyframe] = {}
        self.links: dict[Link, tuple[Tensor, Tensor]] = {}
        self.next_number = 0

    def __len__(self) -> int:
        return len(self.keyframes)

    @property
    def newest(self) -> Keyframe:
        """The last that was added."""
        return self.keyframes[max(self.keyframes)]

    def in_window(self) -> list[int]:
        """The newest numbers, in order."""
        return sorted(self.keyframes)[-self.window :]

    def add(self, key: Keyframe) -> None:
        """As the newest."""
        self.keyframes[key.number] = key
        self.next_number = key.number + 1
        while len(self.keyframes) > self.capacity:
            self._drop(self._alike())
        kept = set(self.in_window())
        self.links = {
            link: matched for link, matched in self.links.items()
            if kept & set(link) and all(number in self.keyframes for number in link)
        }  # fmt: skip

    def _alike(self) -> int:
        """The newer of the two most alike outside the window; the first keyframe stays."""
        numbers = sorted(self.keyframes)[: -self.window]
        if len(numbers) < 2:
            return min(self.keyframes)
        # all pairs at once: of 42 keyframes one by one they took as long as matching a frame
        older, newer = torch.triu_indices(len(numbers), len(numbers), 1)
        at = [self.keyframes[number].reference for number in numbers]
        w2c = torch.stack([one.w2c for one in at])
        nearness = torch.tensor([one.nearness for one in at], dtype=w2c.dtype)
        apart = view_distance(w2c[older], nearness[older], w2c[newer], nearness[newer])
        return numbers[int(newer[apart.argmin()])]

    def _drop(self, number: int) -> None:
        del self.keyframes[number]

    def sharpened(self, one: Sighting, w2c: Tensor, pixel: float) -> Reference:
        """The keyframe that a sighting is of, from now on, as its matches with a frame at `w2c`
        make it: where the frame shows enough parallax its depths are measured, no longer guessed
        from one picture."""
        key = self.keyframes[one.place]
        known = key.reference
        motion = w2c @ inverse_rigid(known.w2c)
        rho, deviation = triangulate(known.rays, one.target, one.weight, motion)
        spread = (deviation / rho.clamp(min=1e-12)).square().add(_FINEST**2).sqrt()
        seen = transfer(known.rays, rho, motion)
        off = (seen.plane - one.target).norm(dim=-1)
        good = (rho > 0) & (spread < _COARSEST) & seen.front & (off < _OFF_PX * pixel)
        more = torch.where(good, spread.square().reciprocal(), 0.0)
        had = known.spread.clamp(min=_UNSURE).square().reciprocal()
        log_rho = (had * known.rho.log() + more * rho.clamp(min=1e-12).log()) / (had + more)
        known = replace(known, rho=log_rho.exp(), spread=(had + more).rsqrt())
        self.keyframes[one.place] = replace(key, reference=known)
        return known

    def refine(self, pixel: float) -> None:
        """Adjust the window's poses and depths to the matches. The map's first keyframe and what
        lies outside the window stay where they are."""
        window = set(self.in_window())
        shape = self.newest.reference.rho.shape
        numbers = sorted({n for link in self.links for n in link} | {self.newest.number})
        numbers = [n for n in numbers if self.keyframes[n].reference.rho.shape == shape]
        place = {number: index for index, number in enumerate(numbers)}
        links = [link for link in sorted(self.links) if all(n in place for n in link)]
        if not links:
            return
        keys = [self.keyframes[number] for number in numbers]
        first = min(self.keyframes)
        found = adjust(
            rays=torch.stack([key.reference.rays for key in keys]),
            w2c=torch.stack([key.reference.w2c for key in keys]),
            rho=torch.stack([key.reference.rho for key in keys]),
            prior=torch.stack([key.prior for key in keys]),
            prior_spread=torch.stack([key.prior_spread for key in keys]),
            pairs=MatchedPairs(
                torch.tensor([place[a] for a, _ in links]),
                torch.tensor([place[b] for _, b in links]),
                torch.stack([self.links[link][0] for link in links]),
                torch.stack([self.links[link][1] for link in links]),
            ),
            free=torch.tensor([n in window and n != first for n in numbers]),
            adjusted=torch.tensor([n in window for n in numbers]),
            pixel=pixel,
        )
        for index, (number, key) in enumerate(zip(numbers, keys, strict=True)):
            if number in window:
                self.keyframes[number] = replace(
                    key,
                    reference=replace(
                        key.reference,
                        w2c=found.w2c[index],
                        rho=found.rho[index],
                        spread=found.spread[index],
                    ),
                )


def described(matcher: PairMatcher, frame: Frame) -> tuple[FrameCode, tuple[int, int], Tensor]:
    """A frame's code, size and intrinsics, float64 [4]; alone, so that its bits stay the same."""
    camera = frame.camera
    assert camera is not None
    image = torch.from_numpy(np.ascontiguousarray(frame.image)).permute(2, 0, 1)[None] / 255.0
    intrinsics = torch.tensor([camera.fx, camera.fy, camera.cx, camera.cy], dtype=torch.float64)
    with torch.inference_mode():
        place = matcher.device
        code = matcher.describe(image.to(place), intrinsics[None].float().to(place))
    return code, (frame.image.shape[0], frame.image.shape[1]), intrinsics


def landed(
    key: Reference,
    w2c: Tensor,
    target: Tensor,
    weight: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Depths that a keyframe's matched points bring to the points of a new frame at `w2c`: sums
    over them of weight x log depth and of weight, [N] each."""  # fmt: skip
    motion = w2c @ inverse_rigid(key.w2c)
    rays = torch.cat([key.rays, torch.ones_like(key.rays[:, :1])], -1)
    ahead = (rays @ motion[:3, :3].T)[:, 2] + key.rho * motion[2, 3]
    depth = ahead / key.rho
    pixels = target * intrinsics[:2] + intrinsics[2:]
    rows, columns = size[0] // STRIDE, size[1] // STRIDE
    column, row = (pixels / STRIDE).floor().long().unbind(-1)
    good = (column >= 0) & (column < columns) & (row >= 0) & (row < rows) & (depth > 1e-6)
    counted = torch.where(good, weight / (1.0 + (key.spread / 0.1).square()), 0.0)
    cell = torch.where(good, row * columns + column, 0)
    sums = torch.zeros(2, rows * columns, dtype=torch.float64)
    sums[0].index_add_(0, cell, counted * depth.clamp(min=1e-6).log())
    sums[1].index_add_(0, cell, counted)
    return sums[0], sums[1]
