"""What a pair matcher promises before it is trained, and on disk."""

from __future__ import annotations

import json

import pytest
import torch

from everview.models.pairs.config import PairConfig
from everview.models.pairs.files import load_matcher, save_matcher
from everview.models.pairs.matcher import FrameCode, PairMatcher, points_of, rays_of, to_plane
from everview.models.weight_files import WeightsError, load_model

SMALL = PairConfig(
    stem=8, fine=16, dim=16, heads=2, own_layers=1, joint_layers=1, match=8, hidden=16,
    iterations=2, place=4,
)  # fmt: skip


@pytest.fixture
def matcher() -> PairMatcher:
    torch.manual_seed(0)
    return PairMatcher(SMALL).eval()


def code_of(matcher: PairMatcher, height: int, width: int, seed: int = 0) -> FrameCode:
    chance = torch.Generator().manual_seed(seed)
    lens = torch.tensor([[40.0, 40.0, width / 2, height / 2]])
    with torch.inference_mode():
        return matcher.describe(torch.rand(1, 3, height, width, generator=chance), lens)


def test_frames_of_different_sizes_are_compared(matcher):
    wide, tall = code_of(matcher, 32, 48), code_of(matcher, 40, 24, seed=1)
    with torch.inference_mode():
        matches = matcher.compare(wide, tall)
    assert matches.position.shape == (1, 8, 12, 2)
    assert matches.coarse.shape == (1, 24, 15)
    assert matches.steps.shape[0] == SMALL.iterations
    torch.testing.assert_close(matches.coarse.exp().sum(-1), torch.ones(1, 24))
    assert (matches.confidence > 0).all()


def test_brightness_and_contrast_of_a_picture_change_nothing(matcher):
    chance = torch.Generator().manual_seed(2)
    picture, lens = torch.rand(1, 3, 32, 32, generator=chance), torch.tensor([[30.0, 30, 16, 16]])
    picture = picture / picture.std()
    with torch.inference_mode():
        one, other = matcher.describe(picture, lens), matcher.describe(picture + 0.3, lens)
    torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-3, atol=1e-4)


def test_points_lie_in_the_middle_of_their_squares_and_rays_through_them():
    assert points_of(2, 3, 4)[1, 2].tolist() == [10.0, 6.0]
    lens = torch.tensor([[20.0, 10.0, 6.0, 4.0]])
    rays = rays_of(lens, 8, 12)
    assert rays[0, 5].tolist() == pytest.approx([(10 - 6) / 20, (6 - 4) / 10])
    torch.testing.assert_close(to_plane(points_of(2, 3, 4).view(1, 6, 2), lens), rays)


def test_sides_that_tokens_do_not_fill_are_refused(matcher):
    with pytest.raises(ValueError, match="44x32: sides are multiples of 8"):
        code_of(matcher, 32, 44)


def test_a_matcher_comes_back_from_disk_and_other_weights_are_told_apart(matcher, tmp_path):
    folder = save_matcher(matcher, tmp_path / "m", "# card", {"step": 3})
    back = load_matcher(folder)
    assert back.config == SMALL
    for name, value in matcher.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert json.loads((folder / "manifest.json").read_text())["facts"] == {"step": 3}
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_model(folder)
    with pytest.raises(WeightsError, match="another model"):
        load_matcher("base")
