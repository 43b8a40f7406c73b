"""How a camera moved, from matches without depths."""

from __future__ import annotations

import pytest
import torch

from everview.models.pairs.geometry import exp_se3, fit_pose, rotation_error, transfer
from everview.models.pairs.two_view import (
    epipolar_motion,
    essential,
    line_distance,
    line_support,
    stepped,
    triangulate,
)

PIXEL = 1.0 / 120.0
STEP = torch.tensor([0.3, -0.1, 0.12, 0.05, -0.35, 0.04], dtype=torch.float64)


@pytest.fixture
def pair():
    """600 points 1 to 4 away, seen from two places: half a pixel of noise, an eighth wild."""
    chance = torch.Generator().manual_seed(5)
    rays = torch.rand(600, 2, generator=chance, dtype=torch.float64) - 0.5
    rho = 1.0 / (1.0 + 3.0 * torch.rand(600, generator=chance, dtype=torch.float64))
    motion = exp_se3(STEP)
    noise = 0.5 * PIXEL * torch.randn(600, 2, generator=chance, dtype=torch.float64)
    target = transfer(rays, rho, motion).plane + noise
    target[::8] += torch.rand(75, 2, generator=chance, dtype=torch.float64) - 0.5
    return rays, rho, target, torch.full((600,), PIXEL**-2, dtype=torch.float64), motion


def turn_apart(a, b) -> float:
    return float(rotation_error(a[:3, :3], b[:3, :3]).rad2deg())


def shift_apart(a, b) -> float:
    """Degrees between two shifts."""
    cosine = torch.cosine_similarity(a[:3, 3], b[:3, 3], dim=0)
    return float(cosine.clamp(-1, 1).acos().rad2deg())


def test_right_matches_lie_on_their_lines_and_wrong_ones_do_not(pair):
    rays, rho, _, _, motion = pair
    exact = transfer(rays, rho, motion).plane
    assert float(line_distance(rays, exact, essential(motion)).max()) < 1e-20
    matrix = essential(motion)
    off_line = (matrix[:2, :] @ torch.cat([rays[0], torch.ones(1).double()]))[None]
    moved = exact[:1] + 0.01 * off_line / off_line.norm()
    assert float(line_distance(rays[:1], moved, matrix)) == pytest.approx(0.5 * 1e-4, rel=0.3)


def test_matches_alone_say_how_the_camera_turned_and_which_way_it_went(pair):
    rays, _, target, weight, motion = pair
    found = epipolar_motion(rays, target, weight, PIXEL)
    assert turn_apart(found, motion) < 1.5
    assert shift_apart(found, motion) < 4.0
    assert float(found[:3, 3].norm()) == pytest.approx(1.0)
    assert float(line_support(rays, target, weight, essential(found), PIXEL)) > 0.6


def test_depths_that_err_over_a_region_bend_a_fit_to_them_and_not_the_epipolar_one(pair):
    rays, rho, target, weight, motion = pair
    wrong = rho * torch.where(rays[:, 0] > 0, 4.0, 0.5)
    given = rays[None], wrong[None], target[None], weight[None]
    spread = torch.full_like(wrong, 0.1)
    bent = fit_pose(*given, torch.eye(4).double()[None], 14, 3 * PIXEL, spread=spread[None])
    straight = epipolar_motion(rays, target, weight, PIXEL)
    assert turn_apart(bent.motion[0], motion) > 5.0
    assert turn_apart(straight, motion) < 1.5


def test_a_steps_length_and_the_depths_follow_from_the_depths_given(pair):
    rays, rho, target, weight, motion = pair
    chance = torch.Generator().manual_seed(9)
    rough = rho * (0.3 * torch.randn(600, generator=chance, dtype=torch.float64)).exp()
    unit = motion.clone()
    unit[:3, 3] = motion[:3, 3] / motion[:3, 3].norm()
    found = stepped(rays, target, weight, unit, rough, torch.full_like(rho, 0.3), PIXEL)
    assert float(found.motion[:3, 3].norm()) == pytest.approx(float(motion[:3, 3].norm()), rel=0.05)
    off = (found.rho / rho).log().abs().median()
    assert float(off) < 0.3 * float((rough / rho).log().abs().median())
    assert float(found.spread.median()) < 0.3


def test_exact_matches_give_exact_depths_and_points_at_infinity_are_unsure(pair):
    rays, rho, _, weight, motion = pair
    found, _ = triangulate(rays, transfer(rays, rho, motion).plane, weight, motion)
    torch.testing.assert_close(found, rho)
    turned = motion.clone()
    turned[:3, 3] = 0.0
    still = transfer(rays, rho, turned).plane
    _, unsure = triangulate(rays, still, weight, turned)
    assert float(unsure.min()) > 1e6


def test_where_nothing_shifts_no_length_is_made_up(pair):
    rays, rho, _, weight, motion = pair
    turned = motion.clone()
    turned[:3, 3] = 0.0
    target = transfer(rays, rho, turned).plane
    sideways = turned.clone()
    sideways[0, 3] = 1.0
    sure = torch.full_like(rho, 0.1)
    assert stepped(rays, target, weight, sideways, rho, sure, PIXEL) is None
    assert epipolar_motion(rays[:8], target[:8], weight[:8], PIXEL) is None


def test_the_same_matches_give_the_same_motion_bit_for_bit(pair):
    rays, _, target, weight, _ = pair
    first, again = (epipolar_motion(rays, target, weight, PIXEL) for _ in range(2))
    assert torch.equal(first, again)
