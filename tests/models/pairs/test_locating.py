"""What references say of a frame, together."""

from __future__ import annotations

from dataclasses import replace

import torch

from everview.models.pairs.geometry import exp_se3
from everview.models.pairs.locating import Sighting, average


def sighting(place: int, shift: float) -> Sighting:
    """A sure one, moved sideways."""
    xi = torch.tensor([shift, 0, 0, 0, 0.1, 0], dtype=torch.float64)
    information = 1e6 * torch.eye(6, dtype=torch.float64)
    points = torch.zeros(4, 2, dtype=torch.float64)
    return Sighting(place, exp_se3(xi), information, 0.9, 0.9, points, torch.ones(4).double())


def test_what_is_no_pose_is_not_heard():
    good, near = sighting(0, 0.2), sighting(1, 0.2001)
    broken = replace(sighting(2, 0.2), w2c=torch.full((4, 4), torch.nan, dtype=torch.float64))
    unsure = replace(sighting(3, 0.2), support=float("nan"))
    found = average([broken, good, unsure, near], 1.0, 0.2)
    alone = average([good, near], 1.0, 0.2)
    assert found is not None
    assert alone is not None
    torch.testing.assert_close(found.w2c, alone.w2c, rtol=0, atol=0)
    assert average([broken, unsure], 1.0, 0.2) is None


def test_the_average_of_poses_is_rigid():
    found = average([sighting(0, 0.2), sighting(1, 0.203)], 1.0, 0.2)
    assert found is not None
    rotation = found.w2c[:3, :3]
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(rotation @ rotation.T, eye, rtol=0, atol=1e-14)
    assert 0.2 <= float(found.w2c[0, 3]) <= 0.204
