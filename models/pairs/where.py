"""A query without a camera, answered by a memory: where, in the scene it holds, was this seen?

The memory's frame bank has pictures and cameras, and the scene model says how deep they look; the
matcher does the rest (`locating`). Nothing is written.

    locator = SceneLocator(model, matcher, model.freeze(state))
    found = locator.locate(images_V3HW, intrinsics_V4)          # Taken, or None, for every picture
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from everview.models.frame_bank import fitted
from everview.models.pairs.config import COARSE, STRIDE
from everview.models.pairs.geometry import inverse_rigid
from everview.models.pairs.locating import Reference, average, sight
from everview.models.pairs.matcher import FrameCode, PairMatcher
from everview.models.queries import Query, View
from everview.models.scene_model import SceneModel

_LEAST_TRUST = 0.2
_DEPTH_ERROR = 0.1  # of the log depth that a memory says


@dataclass(frozen=True, eq=False)
class Taken:
    """c2w_cv float64 [4, 4] in the capture's world; support: share of the matches' weight that
    agrees, 0 to 1; frames: how many of the bank's say so."""

    c2w_cv: Tensor
    support: float
    frames: int


class SceneLocator:
    """Where pictures were taken in the scene that a view holds. Bank frames are described when it
    is made, depths asked when they are first needed; both are kept, so ask one locator often."""

    def __init__(
        self, model: SceneModel, matcher: PairMatcher, view: View, references: int = 4
    ) -> None:
        """references: frames of the bank that a picture is compared with. Raises ValueError for a
        memory without frames, or of several scenes."""
        if view.bank is None or not view.bank.size:
            raise ValueError("a memory without a frame bank can't say where a picture was taken")
        if len(view.bank.images) != 1:
            raise ValueError(f"one scene at a time, not {len(view.bank.images)}")
        self._model, self._matcher, self._view = model, matcher, view
        self._count = references
        bank = view.bank
        height, width = (side // COARSE * COARSE for side in bank.images.shape[-2:])
        pictures, cameras = fitted(bank.pictures(), bank.cameras, height, width)
        self._size = height, width
        self._cameras = view.gauge.cameras_to_world(cameras)
        self._codes = [
            _described(matcher, picture, lens)
            for picture, lens in zip(pictures[0], self._cameras.intrinsics[0], strict=True)
        ]
        self._references: dict[int, Reference] = {}

    @torch.inference_mode()
    def locate(self, images: Tensor, intrinsics: Tensor) -> list[Taken | None]:
        """images [V, 3, H, W] in [0, 1], sides multiples of 8; intrinsics [V, 4] = fx fy cx cy in
        their pixels. None where nothing that the bank holds says where that was."""
        return [self._locate(image, lens) for image, lens in zip(images, intrinsics, strict=True)]

    def _locate(self, image: Tensor, lens: Tensor) -> Taken | None:
        code, lens = _described(self._matcher, image, lens), lens.cpu().double()
        alike = [float(self._matcher.overlap_logit(c.place, code.place)) for c in self._codes]
        best = sorted(range(len(alike)), key=lambda place: (-alike[place], place))[: self._count]
        chosen = [self._reference(place) for place in best]
        sightings = sight(self._matcher, code, lens, chosen)
        found = average(sightings, chosen[0].nearness, _LEAST_TRUST)
        if found is None:
            return None
        support = max(one.support for one in found.sightings)
        return Taken(inverse_rigid(found.w2c), support, len(found.sightings))

    def _reference(self, place: int) -> Reference:
        if place not in self._references:
            cameras = self._cameras[:, place : place + 1]
            depth = self._model.query(Query(cameras), self._view, ("depth",)).depth
            assert depth is not None
            rho = functional.avg_pool2d(1.0 / depth[0].float().clamp(min=1e-6)[None], STRIDE)
            rho = rho.flatten().cpu().double()
            self._references[place] = Reference(
                code=self._codes[place],
                size=self._size,
                intrinsics=cameras.intrinsics[0, 0].cpu().double(),
                w2c=inverse_rigid(cameras.c2w_cv[0, 0].cpu().double()),
                rho=rho,
                spread=torch.full_like(rho, _DEPTH_ERROR),
            )
        return self._references[place]


def _described(matcher: PairMatcher, picture: Tensor, lens: Tensor) -> FrameCode:
    with torch.inference_mode():
        given = picture[None].float().to(matcher.device), lens[None].float().to(matcher.device)
        return matcher.describe(*given)
