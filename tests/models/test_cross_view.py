"""Attention across views: relative, for queries alone, nothing until trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.models.config import BankConfig, base15m, config_to_dict, tiny
from everview.models.context import Context
from everview.models.cross_view import CrossView, Looks, relative_projection
from everview.models.frame_bank import FrameBank, nearest_sources
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.state import state_bytes
from everview.models.sweep import Sources
from everview.models.warping import normalised_lens
from everview.models.weight_files import load_model, save_weights
from tests.models.compiling import compiled_answers_are_plain_ones, without_breaks
from tests.models.part_claims import (
    answers_of_a_stream_are_an_episodes,
    captured_queries_show_the_view_they_are_given,
    views_are_answered_alone_as_together,
    views_that_went_on_and_were_frozen_once,
)
from tests.models.scenes import episode, looking_at, orbit, scene_model, streamed

BANK = BankConfig(hypotheses=8, features=8, groups=4, refine_channels=8, compared=3, sources=2)


def attending(**changes) -> SceneModel:
    """A tiny model whose attention across views adds something."""
    model = scene_model(**{"bank": BANK, "cross_view": 3} | changes)
    for layer in model.cross_view.layers:
        torch.nn.init.normal_(layer.out.weight, std=0.2)
    return model


def without(model: SceneModel) -> SceneModel:
    """The same weights, less the attention across views."""
    plain = SceneModel(replace(model.config, cross_view=0)).eval()
    values = model.state_dict()
    plain.load_state_dict({name: values[name] for name in plain.state_dict()})
    return plain


def looks_of(part: CrossView, cameras: Cameras, sources: Cameras, frames: int) -> Looks:
    """Every view looks at the same `sources` [1, S]."""
    views = cameras.shape[1]
    index = torch.arange(frames).expand(1, views, -1)
    seen = Cameras(
        sources.width,
        sources.height,
        sources.intrinsics[:, None].expand(-1, views, -1, -1),
        sources.c2w_cv[:, None].expand(-1, views, -1, -1, -1),
    )
    nothing = torch.zeros(0)
    every = Sources(seen, index, torch.ones_like(index, dtype=torch.bool), nothing, nothing)
    return part.looks(cameras, every, frames, None)


@torch.no_grad()
def test_weights_from_before_answer_bit_for_bit_until_the_new_layers_are_trained() -> None:
    model = scene_model(bank=BANK, cross_view=3)
    plain = without(model)
    seen = episode()
    asked = Query(seen.targets.cameras, time_s=seen.targets.time_s)
    heads = ("rgb", "depth", "confidence", "memory_rgb")
    answers = [m.query(asked, m.freeze(streamed(m, seen)), heads) for m in (model, plain)]
    trained = [m(seen, CHUNK_CAUSAL)[1].targets for m in (model, plain)]
    for one, other in (answers, trained):
        for name in ("rgb", "direct_rgb", "depth", "log_depth", "log_scale", "memory_rgb"):
            left, right = getattr(one, name), getattr(other, name)
            assert (left is None) == (right is None), name
            assert left is None or torch.equal(left, right), name


@torch.no_grad()
def test_what_is_written_and_what_the_memory_alone_shows_know_nothing_of_it() -> None:
    model = attending()
    plain, seen = without(model), episode()
    states = [streamed(m, seen) for m in (model, plain)]
    assert state_bytes(states[0]) == state_bytes(states[1])
    for one, other in zip(states[0].layers, states[1].layers, strict=True):
        assert one == () or torch.equal(one.weights, other.weights)
    asked = Query(seen.targets.cameras)
    one, other = (
        m.query(asked, m.freeze(s), ("rgb", "memory_rgb"))
        for m, s in zip((model, plain), states, strict=True)
    )
    assert torch.equal(one.memory_rgb, other.memory_rgb)
    assert not torch.equal(one.rgb, other.rgb)
    alone = replace(seen, bank_mask=torch.zeros(2, 2, dtype=torch.bool))
    one, other = (m(alone, CHUNK_CAUSAL)[1] for m in (model, plain))
    assert torch.equal(one.targets.rgb, other.targets.rgb)
    assert torch.equal(one.inputs.rgb, other.inputs.rgb)


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (24, 16)], ids=str)
def test_a_stream_s_answers_are_an_episode_s(size: tuple[int, int]) -> None:
    answers_of_a_stream_are_an_episodes(attending(), size, "direct_rgb", 1e-5)


@torch.no_grad()
def test_a_similarity_of_the_world_changes_no_picture() -> None:
    model, seen = attending(), episode()
    turn = looking_at(torch.tensor([0.3, 1.0, 0.5]).double(), torch.zeros(3).double())

    def moved(views):
        pose = turn @ views.cameras.c2w_cv
        pose[..., :3, 3] *= 2.5
        return views.in_cameras(replace(views.cameras, c2w_cv=pose))

    fitted = replace(seen, gauge=None)
    shown = []
    for case in (fitted, replace(fitted, inputs=moved(seen.inputs), targets=moved(seen.targets))):
        chunk = case.inputs
        state = model.observe(chunk.images, chunk.cameras, chunk.time_s, model.init_state(2))
        shown.append(model.render(case.targets.cameras, state).rgb)
    torch.testing.assert_close(*shown, rtol=0, atol=1e-4)


@torch.no_grad()
def test_attention_depends_on_where_views_stand_to_each_other_alone() -> None:
    model = attending()
    part, layer = model.cross_view, model.cross_view.layers[0]
    cameras = orbit(1, 5, 16, 24)
    frames = part(
        torch.rand(1, 3, 3, 16, 24), cameras[:, 2:].to(torch.float32), torch.rand(1, 3, 11, 4, 6)
    )[0]
    x = torch.randn(1, 2, 6, 64)
    turn = looking_at(torch.tensor([1.3, 2.0, 0.5]).double(), torch.zeros(3).double())
    results = []
    for pose in (torch.eye(4).double(), turn):
        posed = replace(cameras, c2w_cv=pose @ cameras.c2w_cv).to(torch.float32)
        results.append(layer(x, frames, looks_of(part, posed[:, :2], posed[:, 2:], 3)) - x)
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)
    assert results[0].abs().mean() > 0.01
    closer = replace(cameras, c2w_cv=cameras.c2w_cv.clone()).to(torch.float32)
    closer.c2w_cv[:, :2, :3, 3] *= 0.8
    nearer = layer(x, frames, looks_of(part, closer[:, :2], closer[:, 2:], 3)) - x
    assert not torch.allclose(nearer, results[0], atol=1e-3)


def test_a_point_before_a_source_is_moved_to_where_the_view_sees_it() -> None:
    cameras = orbit(1, 4, 16, 24)
    view, sources = cameras[:, :1], cameras[:, None, 1:]
    moves = relative_projection(view, sources)
    point = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)

    def seen(camera: Cameras):
        local = camera.c2w_cv[..., :3, :3].mT @ (point - camera.centres)[..., None]
        one = torch.ones(*camera.shape, 1, dtype=torch.float64)
        return torch.cat([(normalised_lens(camera) @ local)[..., 0], one], -1)

    found = (moves @ seen(sources)[..., None])[..., 0]
    torch.testing.assert_close(found, seen(view)[:, :, None].expand_as(found))
    itself = relative_projection(view, view[:, None])
    torch.testing.assert_close(itself, torch.eye(4).double().expand(1, 1, 1, 4, 4))


@torch.no_grad()
def test_frames_that_are_not_there_have_no_influence() -> None:
    part, layer = attending().cross_view, attending().cross_view.layers[1]
    cameras, x = orbit(1, 4).to(torch.float32), torch.randn(1, 1, 4, 64)
    frames = part(torch.rand(1, 2, 3, 16, 16), cameras[:, 2:], torch.rand(1, 2, 11, 4, 4))[1]
    bank = FrameBank(torch.zeros(1, 2, 3, 16, 16), cameras[:, 2:], torch.zeros(1, 2))
    answers = []
    for compared, beyond in ((2, None), (5, None), (5, torch.nan)):
        index, valid = nearest_sources(cameras[:, :1], torch.zeros(1, 1), bank, compared)
        assert valid.sum() == 2
        sources = bank.cameras[torch.zeros_like(index), index]
        if beyond is not None:
            sources.c2w_cv[:, :, 2:] = beyond
        every = Sources(sources, index, valid, valid, valid)
        answers.append(layer(x, frames, part.looks(cameras[:, :1], every, 2, None)))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], x)


@torch.no_grad()
def test_what_a_view_shows_does_not_depend_on_what_else_is_asked() -> None:
    views_are_answered_alone_as_together(attending())


@torch.no_grad()
def test_ranks_that_share_an_episode_show_their_own_targets_of_it() -> None:
    model = attending(stack="WFWF")  # layers that exchange nothing
    seen = episode((2, 2))
    seen = replace(seen, bank_mask=torch.tensor([[True, False]]).expand(2, 2))
    whole = model(seen, CHUNK_CAUSAL)[1].targets.rgb
    parts = [model(seen, CHUNK_CAUSAL, Context(rank, 2))[1].targets.rgb for rank in range(2)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_gradients_reach_every_new_weight_once_it_adds_something(autocast: bool) -> None:
    model, seen = attending().train(), episode()
    seen = replace(seen, bank_mask=torch.tensor([[True, False]]).expand(2, 2))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, outs = model(seen, CHUNK_CAUSAL)
        loss = outs.targets.rgb.square().mean() + outs.targets.log_depth.square().mean()
    loss.backward()
    for name, parameter in model.cross_view.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_half_precision_shows_nearly_the_same() -> None:
    model, seen = attending(), episode(batch=1)
    state = streamed(model, seen)
    asked = Query(seen.targets.cameras)
    full = model.query(asked, model.freeze(state))
    view = model.freeze(state, torch.bfloat16)
    assert {part.dtype for part in view.features[1:]} == {torch.bfloat16}
    assert model.cross_view.layers[0].out.weight.dtype == torch.float32
    fast = model.query(asked, view)
    assert 0 < float((fast.direct_rgb - full.direct_rgb).abs().mean()) < 0.02


@torch.inference_mode()
def test_a_stream_that_goes_on_shows_what_one_that_froze_once_does() -> None:
    view, once = views_that_went_on_and_were_frozen_once(attending())
    for one, other in zip(view.features, once.features, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_captured_query_shows_the_frames_of_the_view_it_is_given() -> None:
    captured_queries_show_the_view_they_are_given(attending())


@pytest.mark.parametrize(("bits", "apart"), [(8, 0.02), (32, 0.0)])
@torch.no_grad()
def test_weights_survive_a_file(tmp_path, bits: int, apart: float) -> None:
    model, seen = attending(), episode()
    back = load_model(save_weights(model, tmp_path / "w", "", bits=bits))
    assert back.config == model.config
    assert (back.fingerprint == model.fingerprint) == (bits == 32)
    asked = seen.targets.cameras
    shown = [m.render(asked, streamed(m, seen)).rgb for m in (model, back)]
    assert float((shown[0] - shown[1]).abs().mean()) <= apart


def test_names_of_weights_from_before_stay_and_new_ones_differ() -> None:
    plain = base15m()
    assert "cross_view" not in plain.identity
    assert replace(plain, cross_view=3).identity != plain.identity
    assert config_to_dict(replace(plain, cross_view=3))["cross_view"] == 3
    assert not any("cross_view" in name for name, _ in SceneModel(tiny()).named_parameters())


def test_a_model_without_a_bank_has_nothing_to_look_at() -> None:
    with pytest.raises(ValueError, match="without a bank there are no frames"):
        replace(tiny(), bank=None, cross_view=1)
    with pytest.raises(ValueError, match="needs multiples of 8 and 4"):
        replace(tiny(), dim=60, attention_head_dim=20, cross_view=1)


def test_layers_are_spread_between_the_blocks_of_the_stack() -> None:
    with torch.device("meta"):
        assert SceneModel(replace(base15m(), cross_view=3)).cross_view.places == [2, 5, 7]
        assert SceneModel(replace(tiny(), cross_view=1)).cross_view.places == [1]


@pytest.mark.slow
def test_it_compiles_without_breaks_to_one_graph_for_all_layers() -> None:
    compiled, seen = attending(bank=BANK), episode()
    with without_breaks() as counters:
        compiled_answers_are_plain_ones(attending(bank=BANK), compiled, seen)
        graphs = counters["stats"]["unique_graphs"]
        compiled(seen, CHUNK_CAUSAL)[1].targets.rgb.sum().backward()
        assert counters["stats"]["unique_graphs"] == graphs
