"""Which keyframe goes when there is no room for another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from everview.models.pairs.geometry import exp_se3
from everview.pipeline.posing.learned.keyframes import KeyframeMap


def at(number: int, place: float, turn: float = 0.0) -> Any:
    """A keyframe's number and pose, which is all that is asked about."""
    pose = exp_se3(torch.tensor([place, 0, 0, 0, turn, 0], dtype=torch.float64))
    return SimpleNamespace(number=number, reference=SimpleNamespace(w2c=pose, nearness=1.0))


@pytest.mark.parametrize(
    ("keys", "gone"),
    [
        ([at(0, 0), at(1, 5), at(2, 9), at(3, 9.1), at(4, 20), at(5, 20.01)], 3),
        ([at(0, 0), at(1, 5), at(2, 5, 1.0), at(3, 5.9), at(4, 30), at(5, 40)], 3),
        ([at(0, 0), at(1, 0.1), at(2, 9), at(3, 20), at(4, 20.01), at(5, 40)], 1),
    ],
    ids=["the newer of the two", "turns count", "the first stays, and the newest aren't asked"],
)
def test_the_newer_of_the_two_most_alike_outside_the_window_goes(keys, gone):
    kept = KeyframeMap(capacity=5, window=2)
    for key in keys:
        kept.add(key)
    assert set(kept.keyframes) == {key.number for key in keys} - {gone}
