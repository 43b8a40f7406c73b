"""Rays, patches and the time code: what a token knows about where and when."""

from __future__ import annotations

import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.models.rays import TimeCode, TokenEmbedding, patchify, pluecker, unpatchify
from tests.models.scenes import orbit


def test_moments_are_orthogonal_to_their_rays() -> None:
    origins, directions, moments = pluecker(orbit(1, 3).to(torch.float64)).split(3, dim=2)
    assert (moments * directions).sum(2).abs().max() < 1e-12
    assert (moments * origins).sum(2).abs().max() < 1e-12
    torch.testing.assert_close(directions.norm(dim=2), torch.ones(1, 3, 16, 16).double())


def test_the_moment_is_the_same_from_any_point_of_the_ray() -> None:
    cameras = orbit(1, 1)
    maps = pluecker(cameras)[0, 0]
    origin, direction, moment = maps[:3, 4, 7], maps[3:6, 4, 7], maps[6:, 4, 7]
    torch.testing.assert_close(torch.linalg.cross(origin + 2.3 * direction, direction), moment)


def test_rays_go_through_the_middle_of_pixels() -> None:
    lens = torch.tensor([8.0, 8, 4, 4]).double().expand(1, 1, 4)
    camera = Cameras(8, 8, lens, torch.eye(4).double().expand(1, 1, 4, 4))
    directions = pluecker(camera)[0, 0, 3:6]
    corner = directions[:, 0, 0] / directions[2, 0, 0]
    assert corner.tolist() == pytest.approx([-3.5 / 8, -3.5 / 8, 1.0])
    assert directions.mean((1, 2))[:2].abs().max() < 1e-12, "rays aren't symmetric about the axis"


@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_patches_go_there_and_back(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, 5, *size)
    tokens = patchify(maps, 8)
    assert tokens.shape == (2, 3, size[0] * size[1] // 64, 5 * 64)
    assert torch.equal(unpatchify(tokens, 8, *size), maps)


def test_patches_are_read_row_by_row() -> None:
    maps = torch.arange(16 * 24).float().view(1, 1, 1, 16, 24)
    firsts = patchify(maps, 8)[0, 0, :, 0]
    assert firsts.tolist() == [0, 8, 16, 8 * 24, 8 * 24 + 8, 8 * 24 + 16]
    with pytest.raises(ValueError, match="image of 20x16 is not a multiple of the 8 pixel patch"):
        patchify(torch.zeros(1, 1, 3, 16, 20), 8)


def test_periods_go_from_a_tenth_of_a_second_to_three_hours() -> None:
    periods = 2 * torch.pi / TimeCode(12, 4).rates
    assert float(periods[0]) == pytest.approx(0.1)
    assert float(periods[-1]) == pytest.approx(3 * 3600, rel=1e-4)
    ratios = periods[1:] / periods[:-1]
    torch.testing.assert_close(ratios, ratios[:1].expand(11), rtol=1e-3, atol=0)


@torch.no_grad()
def test_unknown_time_is_a_learned_code_and_known_time_is_not() -> None:
    code = TimeCode(6, 8)
    code.unknown.copy_(torch.arange(8.0))
    out = code(torch.tensor([[torch.nan, 0.0, 0.1, 5000.0]]).double())
    assert torch.equal(out[0, 0], torch.arange(8.0))
    assert out.isfinite().all()
    start = code.embed(torch.cat([torch.zeros(6), torch.ones(6)]))
    torch.testing.assert_close(out[0, 1], start)
    assert not torch.allclose(out[0, 2], out[0, 1])


def test_the_gradient_of_unknown_times_is_finite() -> None:
    code = TimeCode(6, 8)
    code(torch.tensor([[torch.nan, 1.0]])).square().sum().backward()
    for parameter in code.parameters():
        assert parameter.grad.isfinite().all()


@torch.no_grad()
def test_far_origins_do_not_drown_colour() -> None:
    """At 100 units from the origin colour keeps its share of a token's variance."""
    embed = TokenEmbedding(64, 8, 6)
    far = orbit(1, 2)
    pose = far.c2w_cv.clone()
    pose[..., :3, 3] += 100
    far = Cameras(16, 16, far.intrinsics.float(), pose.float())
    shares = []
    for cameras in (orbit(1, 2).to(torch.float32), far):
        times = torch.full((1, 2), torch.nan)
        random = torch.Generator().manual_seed(0)
        pictures = [torch.rand(1, 2, 3, 16, 16, generator=random) for _ in range(8)]
        tokens = torch.stack([embed(cameras, picture, times) for picture in pictures])
        shares.append(float(tokens.var(0).mean() / tokens.var()))
    assert shares[1] > 0.8 * shares[0] > 0.1
