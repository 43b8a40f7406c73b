"""Agreement of pairs: what it is, what an occluded source does to it, and that it starts at 0."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.models.config import BankConfig, config_from_dict, config_to_dict, tiny
from everview.models.pair_agreement import PairAgreement, smoothed
from everview.models.schedule import SET
from everview.models.sweep import PlaneSweep
from tests.models.scenes import episode, orbit, scene_model

POWERS = (0.0, 1.5)
PAIRED = replace(tiny().bank, pair_powers=POWERS)


def agreement(powers=POWERS, hypotheses: int = 5) -> PairAgreement:
    return PairAgreement(powers, hypotheses, dim=8)


def cameras(views: int, sources: int) -> Cameras:
    """Sources [1, V, S] around an object, at different distances from each other."""
    places = torch.arange(views * sources).view(views, sources)
    return orbit(1, views * sources)[:, places].to(torch.float32)


@pytest.mark.parametrize("sources", [2, 3, 6])
def test_it_is_the_weighted_mean_over_the_pairs_that_see_a_patch(sources):
    torch.manual_seed(0)
    pairs = agreement()
    samples = torch.rand(1, 2, sources, 7, 6, 5)
    inside = torch.rand(1, 2, sources, 6, 5) > 0.3
    around = cameras(2, sources)
    got = pairs(samples, inside, around, rows=2).detach()
    index = list(combinations(range(sources), 2))
    first, second = (list(ends) for ends in zip(*index, strict=True))
    both = (inside[:, :, first] & inside[:, :, second]).float()
    squared = (samples[:, :, first] - samples[:, :, second]).square()
    near = (around.centres[:, :, first] - around.centres[:, :, second]).norm(dim=-1)
    for k, (colour, feature) in enumerate(pairs.weights.exp().tolist()):
        h = feature * squared[:, :, :, :4].sum(3) + colour * squared[:, :, :, 4:].sum(3)
        h = smoothed(h * both, 2) / smoothed(both, 2).clamp_min(1e-6)
        weight = both * near[..., None, None] ** -POWERS[k]
        mean = (weight * h / (1 + h)).sum(2) / weight.sum(2)
        expected = torch.where(both.sum(2) > 0, mean, 1.0)
        torch.testing.assert_close(got[:, :, k], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sources", [1, 3])
def test_where_fewer_than_two_sources_see_a_patch_nothing_agrees(sources):
    samples = torch.rand(1, 1, sources, 7, 2, 5)
    inside = torch.zeros(1, 1, sources, 2, 5, dtype=torch.bool)
    inside[:, :, 0] = True
    apart = agreement()(samples, inside, cameras(1, sources), rows=1)
    assert torch.equal(apart, torch.ones(1, 1, 2, 2, 5))


def test_an_occluded_source_does_not_move_the_opinion():
    """Five of six sources agree at the third depth alone; whatever the sixth shows there."""
    torch.manual_seed(1)
    sweep = PlaneSweep(BankConfig(features=4, groups=2, hypotheses=5, pair_powers=POWERS), 8, 8)
    samples = torch.rand(1, 1, 6, 7, 4, 5)
    samples[..., 2] = samples[:, :, :1, :, :, 2]
    inside = torch.ones(1, 1, 6, 4, 5, dtype=torch.bool)
    likely, doubts = [], []
    for blocked in (0.5, 2.0, 20.0):
        samples[:, :, 5, :, :, 2] = samples[:, :, 0, :, :, 2] + blocked
        apart = sweep.pairs(samples, inside, cameras(1, 6), 2)
        with torch.no_grad():
            sweep.doubts.fill_(-20.0)  # the pairs alone
            sweep.pairs.trust.fill_(1.0)
        _, opinion = sweep._agreement(samples, inside, 2, apart)
        likely.append(opinion.argmax(-1))
        doubts.append(apart[0, 0, :, 0, 2].detach())
    assert all(bool((best == 2).all()) for best in likely)
    # 5 of the 15 pairs have the blocked source, so at most a third of the bound is doubted
    assert float(doubts[-1][0]) <= 1 / 3 + 1e-6
    spread = samples[..., 2].var(2, correction=0)
    assert float(spread.min()) > 40  # the variance over all six has no bound


def test_gradients_are_finite_where_sources_are_equal_or_absent():
    pairs = agreement()
    samples = torch.full((1, 1, 4, 7, 2, 5), 0.5, requires_grad=True)
    inside = torch.ones(1, 1, 4, 2, 5, dtype=torch.bool)
    inside[..., 0] = False
    apart = pairs(samples, inside, cameras(1, 4), 1)
    (pairs.doubt(apart).sum() + pairs.read(apart).sum()).backward()
    for value in (samples, *pairs.parameters()):
        assert bool(value.grad.isfinite().all())


@torch.no_grad()
def test_a_model_that_gets_pairs_shows_the_same_pictures_until_it_is_trained():
    before, after = scene_model(bank=tiny().bank), scene_model(seed=7, bank=PAIRED)
    missing, unexpected = after.load_state_dict(before.state_dict(), strict=False)
    assert set(missing) == {f"sweep.pairs.{n}" for n in ("weights", "powers", "trust", "reading")}
    assert not unexpected
    seen = episode(chunks=(3,), size=(16, 24))
    first, second = before.forward(seen, SET)[1], after.forward(seen, SET)[1]
    for name in ("rgb", "log_depth", "log_scale"):
        assert torch.equal(getattr(first.targets, name), getattr(second.targets, name))
    after.sweep.pairs.trust.fill_(0.5)
    assert not torch.equal(first.targets.rgb, after.forward(seen, SET)[1].targets.rgb)


def test_pairs_and_a_farther_range_are_in_the_name_of_those_weights_alone_that_have_them():
    plain, paired = tiny(), replace(tiny(), bank=PAIRED)
    assert "pair" not in plain.identity
    assert "shared" not in plain.identity
    assert paired.identity != plain.identity
    assert replace(paired, bank=replace(PAIRED, pair_powers=(3.0,))).identity != paired.identity
    assert config_from_dict(config_to_dict(paired)) == paired
    far = replace(plain, bank=replace(plain.bank, far_shared_by=0.5))
    assert len({plain.identity, paired.identity, far.identity}) == 3
