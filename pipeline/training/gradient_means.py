"""Means of gradients over ranks, exchanged while the backward pass goes on.

Parameters form buckets in the order in which the first backward pass finished their gradients, and
a full bucket's exchange begins at once, beside the rest of the pass (Li et al. 2020, PyTorch
Distributed, arXiv 2006.15704). The order is the first rank's: ranks that exchange different buckets
at a time would wait for ever. It matters: by order of registration, reversed, two biases of a head
without a loss kept all others waiting for the end (two H200, 183M weights: 10 of 11 ms of exchange
with nothing beside it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from everview.pipeline.training.ranks import Ranks

BUCKET_MIB = 32
"""An exchange of this size reaches nearly full bandwidth, and the last one is what isn't hidden."""


@dataclass
class _Bucket:
    """Parameters whose gradients are exchanged at once.

    missing: those without a gradient yet. end: of the exchange, once it has begun.
    """

    parameters: list[Tensor]
    missing: set[int] = field(default_factory=set)
    end: Callable[[], Tensor] | None = None

    def begin(self, ranks: Ranks) -> None:
        """Move the gradients into one tensor, whose parts they are from now on; exchange it."""
        flat = torch.cat([gradient_of(parameter).flatten() for parameter in self.parameters])
        parts = flat.split([parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        self.end = ranks.begin_mean(flat)


class GradientMeans:
    """The gradients of some parameters, as their means over ranks."""

    def __init__(self, parameters: Sequence[Tensor], ranks: Ranks) -> None:
        self._parameters, self._ranks = list(parameters), ranks
        self._places = {id(parameter): place for place, parameter in enumerate(parameters)}
        self._arrived: list[int] = []
        self._buckets: list[_Bucket] | None = None
        self._holding: dict[int, _Bucket] = {}
        self._waiting: list[_Bucket] = []
        self._beside = False
        if ranks.size > 1:
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(self._note)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of `loss`. last: no other loss follows, so exchange them meanwhile."""
        self._waiting, self._beside = [], last and self._ranks.size > 1
        if self._beside:
            self._start()
        try:
            loss.backward()
        finally:
            self._beside = False

    def settle(self) -> None:
        """Every parameter's `grad` is its mean from now on, 0 where the losses don't reach it.

        On a GPU the stream waits, not the host.
        """
        for parameter in self._parameters:
            if parameter.grad is None:  # an unused branch: its matrices still share a batch
                parameter.grad = torch.zeros_like(parameter)
        if self._ranks.size == 1:
            return
        if self._buckets is None:
            self._form_buckets()
        if not self._waiting:
            self._start()
        for bucket in self._waiting:
            if bucket.end is None:
                bucket.begin(self._ranks)
        for bucket in self._waiting:
            assert bucket.end is not None
            bucket.end()
            bucket.end = None  # it holds the exchanged gradients
        self._waiting = []

    def drop(self) -> None:
        """Forget the gradients of a step that was given up."""
        self._waiting = []
        for bucket in self._buckets or []:
            bucket.end = None
        for parameter in self._parameters:
            parameter.grad = None

    def _form_buckets(self) -> None:
        """By the order of arrival on the first rank; what never arrived comes last."""
        known = dict.fromkeys((*self._arrived, *range(len(self._parameters))))
        order = self._ranks.of_first(torch.tensor([*known], device=self._parameters[0].device))
        ordered = [self._parameters[place] for place in order.tolist()]
        self._buckets = [_Bucket(part) for part in _in_buckets(ordered)]
        self._holding = {id(p): bucket for bucket in self._buckets for p in bucket.parameters}

    def _start(self) -> None:
        self._arrived = []
        self._waiting = self._buckets or []
        for bucket in self._waiting:
            bucket.missing = {id(parameter) for parameter in bucket.parameters}
            bucket.end = None

    def _note(self, parameter: Tensor) -> None:
        """Called when a parameter's gradient is there."""
        if not self._beside:
            return
        if self._buckets is None:
            self._arrived.append(self._places[id(parameter)])
            return
        self._holding[id(parameter)].missing.discard(id(parameter))
        for bucket in self._waiting:  # in one order on all ranks, whatever fills first
            if bucket.missing:
                break
            if bucket.end is None:
                bucket.begin(self._ranks)


def _in_buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type in groups of up to BUCKET_MIB; larger ones alone."""
    group: list[Tensor] = []
    for parameter in parameters:
        size = sum(member.nbytes for member in group) + parameter.nbytes
        if group and (size > BUCKET_MIB * 2**20 or parameter.dtype != group[0].dtype):
            yield group
            group = []
        group.append(parameter)
    if group:
        yield group


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient that a parameter must have by now."""
    assert parameter.grad is not None
    return parameter.grad
