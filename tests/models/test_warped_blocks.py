"""Warped pixels in tokens: a query's tokens see the nearest frames where the sweep puts them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from everview.models.config import base15m, config_to_dict
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.sweep import Sources
from tests.models.compiling import compiled_answers_are_plain_ones, without_breaks
from tests.models.fine_models import BANK, fine_model, with_bank
from tests.models.part_claims import (
    answers_of_a_stream_are_an_episodes,
    captured_queries_show_the_view_they_are_given,
    the_memory_alone_knows_nothing_of_it,
    views_are_answered_alone_as_together,
    views_that_went_on_and_were_frozen_once,
    weights_survive,
)
from tests.models.scenes import above_plane, episode, plane_views, scene_model, streamed

WARPED = replace(BANK, warped=2)


def warped_model(**changes) -> SceneModel:
    """A tiny model whose tokens are changed by what they see."""
    model = fine_model(**{"bank": WARPED} | changes)
    torch.nn.init.normal_(model.warped.out.weight, std=0.3)
    return model


def of_plane(frames: int) -> tuple:
    """The module, cameras [1, 1] of a view of a plane, features of a bank of it, its sources of
    which `frames` are there, an opinion that is sure of the true depth, and its picture."""
    cameras = above_plane(5)
    views, model = plane_views(cameras), warped_model()
    index = torch.arange(1, 5).view(1, 1, 4)
    maps = model.fine.features(views.images, model.sweep.features(views.images))
    near = cameras[torch.zeros_like(index), index].to(torch.float32)
    side = model.config.patch
    true = functional.avg_pool2d(views.depth[:, :1].log(), side).flatten(2)
    steps = torch.linspace(-3.0, 3.0, 2001)
    opinion = -((true[..., None] - steps) * 500).square()
    log_depths = steps.expand(1, 1, -1)
    sources = Sources(near, index, index <= frames, log_depths, opinion)
    picture = functional.avg_pool2d(views.images[:, 0], 2)
    return model.warped, cameras[:, :1].to(torch.float32), maps, sources, picture


@torch.no_grad()
def test_at_the_true_depth_every_frame_shows_the_view_s_own_picture() -> None:
    warped, cameras, maps, sources, picture = of_plane(4)
    shown = warped.pictures(cameras, maps, sources)
    assert shown.shape[2] == 2
    inside = (..., slice(6, -6), slice(6, -6))
    expected = (2 * picture - 1)[inside]
    wrong = sources._replace(log_depths=sources.log_depths + 0.2)
    apart = warped.pictures(cameras, maps, wrong)
    for frame in range(2):
        seen = shown[0, 0, frame, 3][inside] == 1
        assert seen.float().mean() > 0.9
        error, elsewhere = (
            (colours[0, 0, frame, :3][inside] - expected[0]).abs().mean(0)[seen].mean()
            for colours in (shown, apart)
        )
        assert error < 0.3 * elsewhere
        moved = (shown[0, 0, frame, :3].roll(1, -1)[inside] - expected[0]).abs().mean(0)[seen]
        assert error < 0.5 * moved.mean()


@torch.no_grad()
def test_frames_that_are_not_there_show_nothing() -> None:
    warped, cameras, maps, sources, _ = of_plane(1)
    shown = warped.pictures(cameras, maps, sources)
    assert shown[:, :, 0].any()
    assert not shown[:, :, 1].any()


@torch.no_grad()
def test_a_frame_that_looks_away_shows_nothing() -> None:
    warped, cameras, maps, sources, _ = of_plane(4)
    pose = sources.cameras.c2w_cv.clone()
    pose[:, :, 0, :3, :3] = pose[:, :, 0, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    turned = sources._replace(cameras=replace(sources.cameras, c2w_cv=pose))
    shown, before = (warped.pictures(cameras, maps, given) for given in (turned, sources))
    assert not shown[:, :, 0].any()
    assert torch.equal(shown[:, :, 1], before[:, :, 1])


@torch.no_grad()
def test_depth_is_the_mean_of_the_opinion() -> None:
    warped, cameras, maps, sources, _ = of_plane(4)
    sure = torch.full_like(sources.opinion, -torch.inf)
    torn = sure.clone()
    sure[..., 1000] = 0.0
    torn[..., 900] = torn[..., 1100] = 0.0
    one, other = (
        warped.pictures(cameras, maps, sources._replace(opinion=opinion))
        for opinion in (sure, torn)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_token_sees_the_blocks_of_its_own_patch(monkeypatch) -> None:
    warped, cameras, maps, sources, _ = of_plane(4)
    shown = torch.zeros_like(warped.pictures(cameras, maps, sources))
    monkeypatch.setattr(warped, "pictures", lambda *_: shown)
    nothing = warped(cameras, maps, sources)
    side, columns = warped.blocks, cameras.width // 8
    for row, column in ((0, 0), (1, 2), (3, 1)):
        shown.zero_()
        patch = (
            ...,
            slice(row * side, (row + 1) * side),
            slice(column * side, (column + 1) * side),
        )
        shown[patch] = 1.0
        changed = (warped(cameras, maps, sources) != nothing).any(-1).squeeze()
        assert changed.nonzero().flatten().tolist() == [row * columns + column]


def test_what_is_seen_does_not_teach_the_sweep_where_to_look() -> None:
    warped, cameras, maps, sources, _ = of_plane(4)
    opinion = sources.opinion.clone().requires_grad_()
    seen = warped(cameras, maps, sources._replace(opinion=opinion)).square().sum()
    assert torch.autograd.grad(seen, opinion, allow_unused=True) == (None,)


@torch.no_grad()
def test_untrained_it_changes_no_picture() -> None:
    model, seen = fine_model(bank=WARPED), episode()
    asked = Query(seen.targets.cameras)
    one, other = (
        m.query(asked, m.freeze(streamed(m, seen))) for m in (model, with_bank(model, BANK))
    )
    assert torch.equal(one.rgb, other.rgb)


@torch.no_grad()
def test_what_the_memory_alone_shows_knows_nothing_of_it() -> None:
    model = warped_model()
    the_memory_alone_knows_nothing_of_it(model, with_bank(model, BANK))


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (24, 16)], ids=str)
def test_a_stream_s_answers_are_an_episode_s(size: tuple[int, int]) -> None:
    answers_of_a_stream_are_an_episodes(warped_model(), size, "rgb", 1e-4)


@torch.no_grad()
def test_a_reduced_view_s_tokens_see_its_reduced_frames() -> None:
    model = warped_model(tokens_a_view=4)
    answers_of_a_stream_are_an_episodes(model, (32, 32), "rgb", 1e-4)
    seen = episode(size=(32, 32))
    view = model.freeze(streamed(model, seen))
    looked: list[tuple[int, int]] = []
    model.warped.register_forward_pre_hook(
        lambda _, given: looked.append((given[0].height, given[1].shape[-1]))
    )
    model.query(Query(seen.targets.cameras), view)
    assert looked == [(16, 8)]


@torch.no_grad()
def test_what_a_view_shows_does_not_depend_on_what_else_is_asked() -> None:
    views_are_answered_alone_as_together(warped_model())


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_gradients_reach_every_new_weight(autocast: bool) -> None:
    model, seen = warped_model().train(), episode()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, outs = model(seen, CHUNK_CAUSAL)
        loss = outs.targets.rgb.square().mean()
    loss.backward()
    for name, parameter in model.warped.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.inference_mode()
def test_a_stream_that_goes_on_shows_what_one_that_froze_once_does() -> None:
    views_that_went_on_and_were_frozen_once(warped_model(cross_view=2))


@torch.inference_mode()
def test_a_captured_query_shows_the_frames_of_the_view_it_is_given() -> None:
    captured_queries_show_the_view_they_are_given(warped_model())


@torch.no_grad()
def test_weights_survive_a_file(tmp_path) -> None:
    weights_survive(warped_model(), tmp_path / "w")


def test_names_of_weights_from_before_stay_and_new_ones_differ() -> None:
    plain = base15m()
    assert "warped" not in plain.identity
    warped = replace(plain, bank=WARPED)
    assert warped.identity != replace(plain, bank=BANK).identity
    assert config_to_dict(warped)["bank"]["warped"] == 2
    assert scene_model(bank=BANK).warped is None


@pytest.mark.parametrize("changes", [{"warped": 4}, {"warped": -1}, {"fine_offsets": ()}], ids=str)
def test_frames_that_cannot_be_warped_are_refused(changes) -> None:
    with pytest.raises(ValueError, match="0 to the 3 frames that are compared"):
        replace(WARPED, **changes)


@pytest.mark.slow
def test_it_compiles_without_breaks() -> None:
    with without_breaks():
        compiled_answers_are_plain_ones(warped_model(), warped_model(), episode())
