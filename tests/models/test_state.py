"""The state is a value: what writes it, what can't, and how it travels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from everview.models.config import BankConfig, tiny
from everview.models.elastic import Elastic
from everview.models.episode import Episode
from everview.models.queries import Query
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.state import (
    StateError,
    detach,
    map_tensors,
    named_tensors,
    state_bytes,
    state_from_tensors,
    state_to_tensors,
    to_device,
)
from everview.models.views import Views
from tests.models.scenes import episode, scene_model, streamed

BANK = BankConfig(capacity=4, hypotheses=8, features=8, groups=4, refine_channels=8)


def assert_same(a, b) -> None:
    """Bit for bit, NaN equal to NaN."""
    left, right = dict(named_tensors(a)), dict(named_tensors(b))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert torch.equal(tensor.nan_to_num(-7.0), right[name].nan_to_num(-7.0)), name


@torch.no_grad()
def test_nan_in_rows_that_do_not_write_leaves_the_state_bit_for_bit() -> None:
    model = scene_model(bank=BANK)
    seen = episode((2, 1))
    lost = replace(seen.targets.cameras, c2w_cv=torch.full((2, 2, 4, 4), torch.nan).double())
    nothing = torch.full((2, 2), torch.nan).double()
    blind = Episode(seen.inputs, Views(None, lost, nothing), seen.chunk_views, seen.gauge)
    assert_same(model(blind, CHUNK_CAUSAL)[0], model(seen, CHUNK_CAUSAL)[0])


@torch.no_grad()
def test_queries_never_write() -> None:
    model = scene_model(bank=BANK)
    seen = episode()
    state = streamed(model, seen)
    before = map_tensors(torch.clone, state)
    view = model.freeze(state)
    first = model.query(Query(seen.targets.cameras), view).rgb
    nan = torch.full_like(seen.targets.images, torch.nan)
    model.query(Query(seen.targets.cameras, nan), view)
    model.query(Query(seen.targets.cameras, seen.targets.images, seen.targets.time_s), view)
    assert_same(state, before)
    assert torch.equal(model.query(Query(seen.targets.cameras), view).rgb, first)


@torch.no_grad()
def test_what_a_view_shows_does_not_depend_on_what_else_is_asked() -> None:
    model = scene_model(bank=BANK)
    seen = episode(targets=4)
    view = model.freeze(streamed(model, seen))
    together = model.query(Query(seen.targets.cameras), view).rgb
    alone = [model.query(Query(seen.targets.cameras[:, i : i + 1]), view).rgb for i in range(4)]
    torch.testing.assert_close(torch.cat(alone, 1), together, rtol=0, atol=1e-5)


@torch.no_grad()
def test_observe_never_writes_into_the_storage_it_was_given() -> None:
    model = scene_model(bank=BANK, elastic=Elastic(), memory_momentum=True)
    seen = episode((2, 2))
    state = streamed(model, seen)
    before = map_tensors(torch.clone, state)
    after = streamed(model, seen, state=state)
    assert_same(state, before)
    changed = {name: t.data_ptr() for name, t in named_tensors(after.layers)}
    assert not changed.items() & {name: t.data_ptr() for name, t in named_tensors(state.layers)}


@torch.no_grad()
def test_the_initial_state_is_not_the_parameters_storage() -> None:
    model = scene_model()
    parameters = {p.data_ptr() for p in model.parameters()}
    assert not parameters & {t.data_ptr() for _, t in named_tensors(model.init_state(1))}


@torch.no_grad()
def test_a_closed_write_gate_leaves_layers_and_bank_bit_for_bit() -> None:
    model = scene_model(bank=BANK, elastic=Elastic(), memory_momentum=True)
    seen = episode((2,))
    state = streamed(model, seen)
    wrong = torch.full_like(seen.inputs.images, torch.nan)
    closed = model.observe(
        wrong, seen.inputs.cameras, seen.inputs.time_s, state, gate_B=torch.zeros(2)
    )
    assert_same(closed, state)


@torch.no_grad()
def test_a_gate_closes_one_scene_of_a_batch() -> None:
    model = scene_model()
    seen = episode((2,))
    state = streamed(model, seen)
    images = seen.inputs.images.clone()
    images[0] = torch.nan
    views = (seen.inputs.cameras, seen.inputs.time_s, state)
    gated = model.observe(images, *views, gate_B=torch.tensor([0.0, 1.0]))
    open_ = model.observe(seen.inputs.images, *views)
    for name, tensor in named_tensors(gated.layers):
        assert torch.equal(tensor[0], dict(named_tensors(state.layers))[name][0])
        assert torch.equal(tensor[1], dict(named_tensors(open_.layers))[name][1])
    assert gated.clock.chunks.tolist() == [1, 2]
    banked = scene_model(bank=BANK)
    views = (*views[:2], streamed(banked, seen))
    with pytest.raises(ValueError, match="gated together"):
        banked.observe(images, *views, gate_B=torch.tensor([0.0, 1.0]))


def test_a_state_of_other_weights_is_refused_with_the_way_out() -> None:
    model, other = scene_model(0), scene_model(1)
    seen = episode()
    state = streamed(model, seen)
    with pytest.raises(StateError, match="replay"):
        other.freeze(state)
    with pytest.raises(StateError, match="replay"):
        streamed(other, seen, state=state)
    with pytest.raises(StateError, match="replay"):
        state_from_tensors(*state_to_tensors(state), other.init_state(2))
    with torch.no_grad():
        model.head.pixels.bias.add_(1)
    with pytest.raises(StateError, match="replay"):
        model.freeze(state)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [0, 2], ids=["unborn", "streamed"])
def test_a_state_survives_safetensors(chunks: int) -> None:
    model = scene_model(bank=BANK, elastic=Elastic(), memory_momentum=True)
    seen = episode((2,) * chunks or (1,))
    state = streamed(model, seen) if chunks else model.init_state(2)
    tensors, facts = state_to_tensors(state)
    back = state_from_tensors(load(save(tensors)), facts, model.init_state(2))
    assert_same(back, state)
    assert back.fingerprint == state.fingerprint
    if chunks:
        assert back.gauge.rule == state.gauge.rule
        asked = Query(seen.targets.cameras)
        assert torch.equal(
            model.query(asked, model.freeze(back)).rgb, model.query(asked, model.freeze(state)).rgb
        )
        assert_same(streamed(model, seen, state=back), streamed(model, seen, state=state))


@torch.no_grad()
def test_tensors_that_are_not_a_state_are_refused() -> None:
    model = scene_model(bank=BANK)
    tensors, facts = state_to_tensors(streamed(model, episode()))
    blank = model.init_state(2)
    name = next(name for name in tensors if name.startswith("layers"))
    with pytest.raises(StateError, match="lacks the tensor"):
        state_from_tensors({k: v for k, v in tensors.items() if k != name}, facts, blank)
    with pytest.raises(StateError, match="another shape or type"):
        state_from_tensors(tensors | {name: tensors[name][..., :1]}, facts, blank)
    with pytest.raises(StateError, match="'surprise'"):
        state_from_tensors(tensors | {"surprise": tensors[name]}, facts, blank)
    few = tensors["bank.time_s"][:, :1]
    with pytest.raises(StateError, match="bank don't match"):
        state_from_tensors(tensors | {"bank.time_s": few}, facts, blank)


@torch.no_grad()
def test_a_full_bank_makes_the_state_a_fixed_size_that_counts_everything() -> None:
    model = scene_model(bank=BANK)
    seen = episode((2, 2, 2, 2))
    sizes = []
    state = model.init_state(2)
    for n in range(4):
        part = Episode(seen.inputs[2 * n : 2 * n + 2], seen.targets, (2,), seen.gauge)
        state = streamed(model, part, state=state)
        sizes.append(state_bytes(state))
    assert sizes[0] < sizes[1] == sizes[2] == sizes[3]
    tensors, _ = state_to_tensors(state)
    assert sizes[-1] == sum(len(t.numpy().tobytes()) for t in tensors.values())


def test_detaching_and_moving_keep_every_value() -> None:
    model = scene_model(bank=BANK)
    state = streamed(model, episode())
    assert any(t.requires_grad for _, t in named_tensors(state))
    assert not any(t.requires_grad for _, t in named_tensors(detach(state)))
    assert_same(to_device(detach(state), "cpu"), detach(state))
    away = to_device(state, "meta")
    assert {t.device.type for _, t in named_tensors(away)} == {"meta"}


@torch.no_grad()
def test_the_gauge_is_fixed_by_the_first_chunk() -> None:
    model = scene_model()
    seen = episode((2,))
    state = streamed(model, seen)
    views = seen.inputs
    with pytest.raises(ValueError, match="fixed by the first chunk"):
        model.observe(views.images, views.cameras, None, state, gauge=seen.gauge)
    with pytest.raises(StateError, match="nothing was observed"):
        model.freeze(model.init_state(1))


@torch.no_grad()
def test_the_clock_starts_with_the_first_known_time() -> None:
    model = scene_model()
    seen = episode((1, 1, 1), batch=1)
    times = torch.tensor([[torch.nan, 12.5, 13.0]]).double()
    state = streamed(model, replace(seen, inputs=replace(seen.inputs, time_s=times)))
    assert state.clock.origin_s.tolist() == [12.5]
    assert state.clock.chunks.tolist() == [3]
    since = state.clock.since_origin(torch.tensor([[torch.nan, 13.0]]).double(), 2)
    assert since[0, 0].isnan()
    assert since[0, 1] == 0.5


@torch.no_grad()
def test_float32_streams_stay_close_to_float64_over_32_chunks() -> None:
    seen = episode((1,) * 32, targets=1, batch=1)
    model = scene_model()
    wide = scene_model().double()
    images = replace(seen.inputs, images=seen.inputs.images.double())
    narrow_state = streamed(model, seen)
    wide_state = streamed(wide, replace(seen, inputs=images))
    exact = dict(named_tensors(wide_state.layers))
    assert exact
    for name, tensor in named_tensors(narrow_state.layers):
        torch.testing.assert_close(tensor.double(), exact[name], rtol=0, atol=1e-4)


@torch.no_grad()
def test_chunks_that_do_not_fit_the_state_are_refused() -> None:
    model = scene_model(bank=BANK)
    seen, wider = episode((2,)), episode((2,), size=(16, 24))
    state = streamed(model, seen)
    with pytest.raises(ValueError, match="don't belong together"):
        model.observe(wider.inputs.images, seen.inputs.cameras, None, state)
    with pytest.raises(ValueError, match="don't belong together"):
        model.observe(seen.inputs.images, seen.inputs.cameras, None, model.init_state(3))
    assert tiny().patch == 8
    odd = episode((2,), size=(16, 20))
    with pytest.raises(ValueError, match="not a multiple of the 8 pixel patch"):
        streamed(model, odd)


@torch.no_grad()
def test_frames_of_another_size_go_on_in_the_same_memory() -> None:
    """The fast weights take tokens of any grid; the bank keeps its size, and exact cameras."""
    model = scene_model(bank=BANK)
    seen, wider = episode((2,)), episode((2,), size=(16, 24))
    before = streamed(model, seen)
    state = streamed(model, wider, state=before)
    assert before.bank is not None
    assert state.bank is not None
    assert state.bank.images.shape[-2:] == before.bank.images.shape[-2:] == (16, 16)
    assert state.bank.size == 4
    kept, own = state.bank.cameras[:, 2:], state.gauge.cameras_to_model(wider.inputs.cameras)
    assert (kept.width, kept.height) == (16, 16)
    stretched = torch.tensor([16 / 24, 1.0, 16 / 24, 1.0])
    torch.testing.assert_close(kept.intrinsics, own.intrinsics * stretched)
    torch.testing.assert_close(kept.c2w_cv, own.c2w_cv)
    pairs = zip(named_tensors(state.layers), named_tensors(before.layers), strict=True)
    assert any(not torch.equal(now, then) for (_, now), (_, then) in pairs)
