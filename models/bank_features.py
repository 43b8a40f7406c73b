"""The matching features of a bank's frames, made once a frame instead of once a freeze.

A chunk changes few of the frames that a bank keeps, in a bank's order: those that stay, then the
new ones. What stays is found by its pixels, so nothing has to be told or remembered beside them.
Convolutions treat the pictures of a batch alike, so a stream that goes on and one that froze all
frames at once have the same features (on a CPU bit for bit: a test).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from everview.models.frame_bank import FrameBank

Features = Callable[[Tensor], Tensor]
"""Pictures [B, K, 3, H, W] to their maps [B, K, C, h, w] (`sweep.MatchingFeatures`)."""


class _Known(NamedTuple):
    """images as the bank stores them, and their maps. weights: what made those."""

    weights: tuple[Any, ...]
    images: Tensor
    maps: Tensor


class BankFeatures:
    """Those of the bank that was asked for last; swapped as a whole, so threads may come together.

    Gradients and batches of several scenes are made anew: they are training's.
    """

    def __init__(self) -> None:
        self._known: _Known | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> BankFeatures:
        return BankFeatures()  # another model's weights may go their own way

    def of(self, bank: FrameBank, features: Features, weights: tuple[Any, ...]) -> Tensor:
        """The maps of all frames of `bank`. weights: names what `features` computes with."""
        if torch.is_grad_enabled() or len(bank.images) != 1:
            return features(bank.pictures())
        known = self._known
        if known is None or known.weights != weights or not _alike(known.images, bank.images):
            maps = features(bank.pictures())
        else:
            maps = _joined(known, bank, features)
        self._known = _Known(weights, bank.images, maps)
        return maps


def _alike(images: Tensor, others: Tensor) -> bool:
    return (
        images.shape[2:] == others.shape[2:]
        and images.dtype == others.dtype
        and images.device == others.device
    )


def _joined(known: _Known, bank: FrameBank, features: Features) -> Tensor:
    """Maps of frames that were there before, and new ones of the rest, in the bank's order."""
    kept = _kept(known.images[0], bank.images[0])
    count = bank.size - len(kept)
    if not kept:
        return features(bank.pictures())
    maps = known.maps[:, kept]
    if not count:
        return maps
    fresh = FrameBank(
        bank.images[:, len(kept) :], bank.cameras[:, len(kept) :], bank.time_s[:, len(kept) :]
    )
    return torch.cat([maps, features(fresh.pictures())], 1)


def _kept(images: Tensor, others: Tensor) -> list[int]:
    """Places in `images` of the first frames of `others`, as long as both go on in one order."""
    places: list[int] = []
    place = 0
    for other in others:
        while place < len(images) and not torch.equal(images[place], other):
            place += 1
        if place == len(images):
            break
        places.append(place)
        place += 1
    return places
