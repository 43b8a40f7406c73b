"""What queries compare of a bank's frames, made once a frame instead of once a freeze.

A chunk changes few of the frames that a bank keeps, in a bank's order: those that stay, then the
new ones. What stays is found by its pixels, so nothing has to be told or remembered beside them:
sums of them say where to look, for which a device is waited for once, and then all are compared,
lenses too (poses may change: nothing that is made of a frame depends on them). Convolutions treat
the pictures of a batch alike, so a stream that goes on and one that froze all frames at once have
the same matching features, to the last bit or next to it (a test).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from everview.models.frame_bank import FrameBank

Made = tuple[Tensor, ...]
"""Tensors [B, K, ...]: of each frame by itself."""
Features = Callable[[FrameBank], Made]
"""What is made of a bank's pictures and lenses."""


class _Known(NamedTuple):
    """The frames, and what was made of them. weights: what made that."""

    weights: tuple[Any, ...]
    bank: FrameBank
    made: Made


class BankFeatures:
    """Those of the bank that was asked for last; swapped as a whole, so threads may come together.

    Gradients and batches of several scenes are made anew: they are training's.
    """

    def __init__(self) -> None:
        self._known: _Known | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> BankFeatures:
        return BankFeatures()  # another model's weights may go their own way

    def of(self, bank: FrameBank, features: Features, weights: tuple[Any, ...]) -> Made:
        """`features` of all frames of `bank`. weights: names what it computes with."""
        if torch.is_grad_enabled() or len(bank.images) != 1:
            return features(bank)
        known = self._known
        if known is None or known.weights != weights or not _alike(known.bank.images, bank.images):
            made = features(bank)
        else:
            made = _joined(known, bank, features)
        self._known = _Known(weights, bank, made)
        return made


def _alike(images: Tensor, others: Tensor) -> bool:
    return (
        images.shape[2:] == others.shape[2:]
        and images.dtype == others.dtype
        and images.device == others.device
    )


def _joined(known: _Known, bank: FrameBank, features: Features) -> Made:
    """What frames had that were there before, and new ones of the rest, in the bank's order."""
    sums = _sums(torch.cat([known.bank.images[0], bank.images[0]]))
    before = known.bank.size
    kept = _kept(sums[:before], sums[before:])
    count = len(kept)
    if not kept or not _same(known.bank, kept, bank):
        return features(bank)
    made = tuple(part[:, kept] for part in known.made)
    if count == bank.size:
        return made
    fresh = FrameBank(bank.images[:, count:], bank.cameras[:, count:], bank.time_s[:, count:])
    return tuple(torch.cat(parts, 1) for parts in zip(made, features(fresh), strict=True))


def _same(known: FrameBank, kept: list[int], bank: FrameBank) -> bool:
    """Whether the first frames of `bank` are these of the known ones, pixels and lenses."""
    count = len(kept)
    lenses, others = known.cameras.intrinsics, bank.cameras.intrinsics
    return torch.equal(known.images[:, kept], bank.images[:, :count]) and torch.equal(
        lenses[:, kept], others[:, :count]
    )


def _kept(sums: list[int], others: list[int]) -> list[int]:
    """Places in `sums` of the first of `others`, as long as both go on in one order."""
    places: list[int] = []
    place = 0
    for other in others:
        while place < len(sums) and sums[place] != other:
            place += 1
        if place == len(sums):
            break
        places.append(place)
        place += 1
    return places


def _sums(images: Tensor) -> list[int]:
    """Of each of K pictures, its bytes as 64-bit words times odd numbers, modulo 2^64."""
    words = images.flatten(1).contiguous().view(torch.int64)
    places = torch.arange(words.shape[1], device=words.device)
    # the golden ratio's multiples, whose low bits are as mixed as one multiplication makes them
    factors = places * -7046029254386353131 | 1
    return [int(value) for value in (words * factors).sum(1).tolist()]
