"""Training of pair matchers: the truth is true, and errors fall."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from everview.models.pairs.config import STRIDE
from everview.models.pairs.files import load_matcher
from everview.models.pairs.matcher import PairMatcher, points_of
from everview.pipeline.training.config import World
from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.pairs import run as pair_run
from everview.pipeline.training.pairs.drawing import chosen_pairs
from everview.pipeline.training.pairs.losses import pair_loss
from everview.pipeline.training.pairs.truth import pair_truth
from everview.pipeline.training.reporting import CURVE, Curve, Reporter
from everview.pipeline.training.scene_pool import SceneViews
from everview.pipeline.training.sources import render_scenes
from everview.workflows.recipes.pairs import pairs_tiny


@pytest.fixture(scope="module")
def views() -> SceneViews:
    world = World("room", trajectory="video")
    return render_scenes(world, np.arange(2), 3, 64, torch.device("cpu"), samples_per_pixel=1)


@pytest.fixture(scope="module")
def pairs(views):
    scenes = torch.tensor([0, 1, 0, 1])
    return chosen_pairs(views, scenes, torch.tensor([0, 0, 1, 2]), torch.tensor([1, 1, 2, 1]), 64)


def test_true_matches_show_the_same_colours_and_backwards_lead_back(pairs):
    truth = pair_truth(pairs, STRIDE)
    seen = truth.visible & truth.judged
    assert 0.2 < seen.float().mean() < 0.99
    here = points_of(16, 16, STRIDE).flatten(0, 1).expand(4, -1, -1)

    def colours(images, places):
        grid = (places / 32 - 1)[:, :, None]
        return functional.grid_sample(images, grid, align_corners=False)[..., 0].movedim(1, -1)

    a, b = colours(pairs.images_a, here), colours(pairs.images_b, truth.position)
    stayed = colours(pairs.images_b, here)
    moved, still = (((a - other).abs().mean(-1)[seen]).median() for other in (b, stayed))
    assert moved < 0.25 * still
    both = pairs.both_ways()
    there_and_back = both.motion[4:] @ both.motion[:4]
    torch.testing.assert_close(there_and_back, torch.eye(4).expand(4, 4, 4), atol=1e-5, rtol=0)


def test_smaller_pictures_have_the_same_truth_in_their_own_pixels(views):
    zero, one = torch.tensor([0]), torch.tensor([1])
    large, small = (chosen_pairs(views, zero, zero, one, size) for size in (64, 32))
    # every second token of the small pictures lies between four of the large ones
    coarse = pair_truth(large, 8), pair_truth(small, 4)
    torch.testing.assert_close(coarse[0].position, 2 * coarse[1].position, atol=1e-3, rtol=1e-4)


def test_losses_fall_and_no_part_is_left_out(pairs):
    config = pairs_tiny()
    torch.manual_seed(0)
    model = PairMatcher(config.model)
    optimiser = Optimiser(model, replace(config.optimiser, adamw_rate=1e-3))
    weights = pair_run.loss_weights(config.loss, 1.0)
    first = last = {}
    for _ in range(12):
        loss, parts = pair_loss(model, pairs, weights)
        optimiser.backward(loss)
        assert all(p.grad is not None for p in model.parameters())
        optimiser.step(1.0)
        last = {name: float(value.detach()) for name, value in parts.items()}
        first = first or last
    assert set(first) == {"coarse", "steps", "likelihood", "visible", "depth", "place", "pose"}
    for name in ("coarse", "likelihood", "depth", "place"):
        assert last[name] < first[name], name


def test_a_run_leaves_weights_a_card_and_a_curve(tmp_path, monkeypatch, views):
    config = replace(pairs_tiny(), budget=Budget(steps=2), pairs=2, report_every=1)

    class Pool:
        storage = views
        advance = staticmethod(lambda step: 0)

    monkeypatch.setattr(pair_run, "ScenePool", lambda *_: Pool())
    held = {"room-video/1": chosen_pairs(views, *torch.tensor([[0, 1], [0, 0], [1, 1]]), 64)}
    monkeypatch.setattr(pair_run, "held_out_pairs", lambda *_: held)
    report = io.StringIO()
    facts = pair_run.train_pairs(config, tmp_path, Reporter(report))
    assert facts["finished"]
    assert facts["step"] == 2
    assert [line["step"] for line in Curve.read(tmp_path / CURVE)] == [1, 2]
    assert load_matcher(tmp_path / "weights").config == config.model
    assert "room-video/1" in (tmp_path / "weights" / "card.md").read_text()
    assert "held out room-video/1" in report.getvalue()
