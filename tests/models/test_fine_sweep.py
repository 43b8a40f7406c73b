"""The fine sweep: agreement of the nearest frames at pixels, around the tokens' depth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.config import base15m, config_to_dict, tiny
from everview.models.heads import FEATURES, Decoded
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.sweep import Sources
from tests.models.compiling import compiled_answers_are_plain_ones, without_breaks
from tests.models.fine_models import BANK, OFFSETS, PLAIN, fine_model, with_bank
from tests.models.part_claims import (
    answers_of_a_stream_are_an_episodes,
    captured_queries_show_the_view_they_are_given,
    the_memory_alone_knows_nothing_of_it,
    views_are_answered_alone_as_together,
    views_that_went_on_and_were_frozen_once,
    weights_survive,
)
from tests.models.scenes import (
    above_plane,
    episode,
    plane_views,
    scene_model,
    streamed,
)


@torch.no_grad()
def test_without_a_first_opinion_weights_from_before_answer_as_they_did() -> None:
    model, seen = scene_model(bank=BANK), episode()
    model.fine.weights[2] = -torch.inf
    asked = Query(seen.targets.cameras, time_s=seen.targets.time_s)
    heads = ("rgb", "depth", "confidence", "memory_rgb")
    one, other = (
        m.query(asked, m.freeze(streamed(m, seen)), heads) for m in (model, with_bank(model, PLAIN))
    )
    for name in ("rgb", "direct_rgb", "log_depth", "log_scale", "memory_rgb"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=2e-6)


def decoded_of(log_depth: torch.Tensor, spacing: float) -> Decoded:
    """Grey pixels at this log depth [1, 1, H, W]."""
    shape = log_depth.shape[-2:]
    return Decoded(
        torch.full((1, 1, 3, *shape), 0.5),
        log_depth,
        log_depth,
        torch.zeros(1, 1, FEATURES, *shape),
        torch.full((1, 1), spacing),
        None,
    )


def of_plane(frames: int = 4) -> tuple:
    """Cameras [1, 1] of a view of a plane, its log depth, features of a bank of it, sources."""
    cameras = above_plane(5)
    views, model = plane_views(cameras), scene_model(bank=replace(BANK, sources=2, compared=4))
    index = torch.arange(1, 5).view(1, 1, 4)
    valid = index <= frames
    maps = model.fine.features(views.images, model.sweep.features(views.images))
    near = cameras[torch.zeros_like(index), index].to(torch.float32)
    log_depth = views.depth[:, :1].log()
    sources = Sources(near, index, valid, log_depth, log_depth)
    return model.fine, cameras[:, :1].to(torch.float32), log_depth, maps, sources


@torch.no_grad()
def test_frames_agree_most_at_the_offset_where_the_surface_is() -> None:
    fine, cameras, true, maps, sources = of_plane()
    for place, offset in enumerate(OFFSETS):
        decoded = decoded_of(true - offset * 0.1, 0.1)
        evidence, opinion = fine._evidence(decoded, cameras, maps, sources)
        inside = (..., slice(8, -8), slice(8, -8))
        apart = evidence.unflatten(1, (-1, len(OFFSETS)))[0, 3:11:2][inside].mean((2, 3))
        assert apart.argmin(1).tolist() == [place] * 4
        assert int(opinion[0][inside].mean((1, 2)).argmax()) == place


@torch.no_grad()
def test_untrained_it_moves_depth_towards_the_surface_and_leaves_colours() -> None:
    fine, cameras, true, maps, sources = of_plane()
    tokens = torch.randn(1, 1, 64, 64)
    inside = (..., slice(8, -8), slice(8, -8))
    for offset in (-1.0, 0.4, 3.0):
        decoded = decoded_of(true - offset * 0.1, 0.1)
        found = fine(decoded, tokens, 8, cameras, maps, sources)
        before, after = (float((d.log_depth - true)[inside].abs().mean()) for d in (decoded, found))
        assert after < 0.8 * before
        assert torch.equal(found.rgb, decoded.rgb)


@torch.no_grad()
@pytest.mark.parametrize("frames", [0, 1, 2, 3])
def test_frames_that_are_not_there_say_nothing(frames: int) -> None:
    fine, cameras, true, maps, sources = of_plane(frames)
    decoded = decoded_of(true, 0.1)
    evidence, opinion = fine._evidence(decoded, cameras, maps, sources)
    maps[:, frames + 1 :] = 0.0
    same, again = fine._evidence(decoded, cameras, maps, sources)
    assert torch.equal(evidence, same)
    assert torch.equal(opinion, again)
    if frames < 2:  # nobody agrees with nobody, anywhere alike
        assert torch.equal(opinion, opinion[:, :1].expand_as(opinion))


@torch.no_grad()
def test_what_the_memory_alone_shows_knows_nothing_of_it() -> None:
    model = fine_model()
    the_memory_alone_knows_nothing_of_it(model, with_bank(model, PLAIN))


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (24, 16)], ids=str)
def test_a_stream_s_answers_are_an_episode_s(size: tuple[int, int]) -> None:
    answers_of_a_stream_are_an_episodes(fine_model(), size, "rgb", 1e-4)


@torch.no_grad()
def test_what_a_view_shows_does_not_depend_on_what_else_is_asked() -> None:
    views_are_answered_alone_as_together(fine_model())


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_gradients_reach_every_new_weight(autocast: bool) -> None:
    model, seen = fine_model().train(), episode()
    seen = replace(seen, bank_mask=torch.tensor([[True, False]]).expand(2, 2))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, outs = model(seen, CHUNK_CAUSAL)
        loss = outs.targets.rgb.square().mean() + outs.targets.log_depth.square().mean()
    loss.backward()
    for name, parameter in (*model.fine.named_parameters(), ("finer", model.refine.finer.weight)):
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_what_is_seen_says_nothing_of_where_to_look() -> None:
    fine, cameras, true, maps, sources = of_plane()
    decoded = decoded_of(true.requires_grad_(), 0.1)
    evidence, opinion = fine._evidence(decoded, cameras, maps, sources)
    loss = evidence.square().sum() + opinion.square().sum()
    assert torch.autograd.grad(loss, true, allow_unused=True) == (None,)


@torch.inference_mode()
def test_a_stream_that_goes_on_shows_what_one_that_froze_once_does() -> None:
    views_that_went_on_and_were_frozen_once(fine_model(cross_view=2))


@torch.inference_mode()
def test_a_captured_query_shows_the_frames_of_the_view_it_is_given() -> None:
    captured_queries_show_the_view_they_are_given(fine_model())


@torch.no_grad()
def test_weights_survive_a_file(tmp_path) -> None:
    weights_survive(fine_model(), tmp_path / "w")


def test_names_of_weights_from_before_stay_and_new_ones_differ() -> None:
    plain = base15m()
    finer = replace(plain, bank=replace(plain.bank, fine_offsets=OFFSETS))
    assert "fine=" not in plain.identity
    assert finer.identity != plain.identity
    assert config_to_dict(finer)["bank"]["fine_offsets"] == list(OFFSETS)
    names = [name for name, _ in SceneModel(tiny()).named_parameters()]
    assert not any(name.startswith(("fine.", "refine.finer")) for name in names)


def test_offsets_are_symmetric_so_that_depth_begins_where_it_was() -> None:
    with pytest.raises(ValueError, match="symmetric"):
        replace(PLAIN, fine_offsets=(-1.0, 0.0, 2.0))


def test_patches_are_whole_numbers_of_its_deepest_cells() -> None:
    with pytest.raises(ValueError, match="patch 4: the fine sweep needs a multiple of 8"):
        replace(tiny(), patch=4, bank=BANK)


@pytest.mark.slow
def test_it_compiles_without_breaks() -> None:
    with without_breaks():
        compiled_answers_are_plain_ones(fine_model(), fine_model(), episode())
