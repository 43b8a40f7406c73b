"""Motions and the poses that matches say, by axioms and against known answers."""

from __future__ import annotations

import pytest
import torch

from everview.models.pairs.geometry import (
    adjoint,
    exp_se3,
    fit_pose,
    inverse_rigid,
    log_se3,
    nearest_rigid,
    pose_jacobian,
    rotation_error,
    transfer,
)


@pytest.fixture
def chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def twists(chance: torch.Generator, count: int, size: float) -> torch.Tensor:
    return size * torch.randn(count, 6, generator=chance, dtype=torch.float64)


def test_log_undoes_exp_and_inverse_undoes_a_motion(chance):
    for size in (1e-9, 1e-4, 0.6):
        xi = twists(chance, 20, size)
        torch.testing.assert_close(log_se3(exp_se3(xi)), xi, rtol=1e-9, atol=1e-14)
    motion = exp_se3(twists(chance, 5, 0.7))
    eye = torch.eye(4, dtype=torch.float64).expand(5, 4, 4)
    torch.testing.assert_close(motion @ inverse_rigid(motion), eye)


def test_adjoint_moves_a_twist_to_the_other_side(chance):
    motion, xi = exp_se3(twists(chance, 4, 0.8)), twists(chance, 4, 0.3)
    moved = (adjoint(motion) @ xi[..., None])[..., 0]
    torch.testing.assert_close(motion @ exp_se3(xi), exp_se3(moved) @ motion)


def test_jacobian_is_that_of_a_step_from_the_left(chance):
    rays = torch.rand(7, 2, generator=chance, dtype=torch.float64) - 0.5
    rho = torch.rand(7, generator=chance, dtype=torch.float64)
    motion = exp_se3(twists(chance, 1, 0.1))[0]
    analytic = pose_jacobian(transfer(rays, rho, motion), rho)
    for axis in range(6):
        xi = torch.zeros(2, 6, dtype=torch.float64)
        xi[0, axis], xi[1, axis] = 1e-6, -1e-6
        ahead, back = (transfer(rays, rho, exp_se3(step) @ motion).plane for step in xi)
        torch.testing.assert_close((ahead - back) / 2e-6, analytic[..., axis], rtol=1e-6, atol=1e-8)


def test_pose_is_found_from_far_with_a_third_of_the_matches_wrong(chance):
    rays = torch.rand(2, 300, 2, generator=chance, dtype=torch.float64) - 0.5
    rho = torch.rand(2, 300, generator=chance, dtype=torch.float64) * 1.5
    rho[:, :50] = 0.0  # the sky tells turns alone
    truth = exp_se3(twists(chance, 2, 0.25))
    target = transfer(rays, rho, truth).plane
    target[:, 200:] += 0.5 * torch.randn(2, 100, 2, generator=chance, dtype=torch.float64)
    start = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    fit = fit_pose(rays, rho, target, torch.ones_like(rho), start, steps=14)
    assert rotation_error(fit.motion[:, :3, :3], truth[:, :3, :3]).max() < 1e-3
    torch.testing.assert_close(fit.motion, truth, rtol=0, atol=5e-3)
    assert (fit.support > 0.6).all()
    assert (fit.support < 0.8).all()


def test_without_any_weight_the_motion_stays_where_it_started(chance):
    rays = torch.rand(1, 20, 2, generator=chance, dtype=torch.float64)
    start = exp_se3(twists(chance, 1, 0.2))
    nothing = torch.zeros(1, 20, dtype=torch.float64)
    assert torch.equal(fit_pose(rays, nothing, rays, nothing, start).motion, start)


def test_poses_made_from_poses_stay_rigid_however_many(chance):
    def steps(tidied):
        before = here = torch.eye(4, dtype=torch.float64)
        for twist in twists(chance, 300, 0.1):
            motion = exp_se3(twist) @ here @ inverse_rigid(before)
            before, here = here, tidied(motion @ here)
        return here[:3, :3] @ here[:3, :3].T

    eye = torch.eye(3, dtype=torch.float64)
    assert float((steps(nearest_rigid) - eye).abs().max()) < 1e-13
    drifted = (steps(lambda pose: pose) - eye).abs().max()
    assert not float(drifted) < 1e-6  # what happens without


def test_the_nearest_rigid_motion_of_a_rigid_one_is_itself(chance):
    motion = exp_se3(twists(chance, 20, 0.7))
    torch.testing.assert_close(nearest_rigid(motion), motion, rtol=0, atol=1e-14)
