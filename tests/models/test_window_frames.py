"""Queries read the frames nearest to them, also those that a window has let go."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everview.models import scene_model as scene_model_module
from everview.models.captured import EAGER_USES, CapturedQuery
from everview.models.config import WindowConfig, tiny
from everview.models.frame_bank import nearest_sources
from everview.models.layers.sliding_window import FrameCells, Nearest
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL, SET, SHIFTED, Schedule
from everview.models.state import (
    SceneState,
    StateError,
    map_tensors,
    named_tensors,
    state_from_tensors,
    state_to_tensors,
)
from everview.models.views import Views
from everview.models.window_frames import with_nearest
from everview.pipeline.streaming.gate.thresholds import GateThresholds
from everview.pipeline.streaming.gate.write_gate import WriteGate
from tests.models.compiling import without_breaks
from tests.models.scenes import episode, orbit, scene_model, streamed
from tests.models.standin_recorder import StandIn
from tests.models.test_sliding_window import (
    EXACT,
    GRID,
    TABLES,
    WINDOW,
    by_hand,
    frames,
    window_layer,
    wrote,
)

ROUNDED = {"rtol": 0, "atol": 2e-3}
"""Kept cells are 8 bits a value."""
PICTURES = {"rtol": 0, "atol": 1e-6}
"""A bank's pictures are made float32 of bytes."""


def model_of(**changes) -> SceneModel:
    bank = replace(tiny().bank, **changes)
    return scene_model(stack="STFS", window=WINDOW, bank=bank)


def answers(model: SceneModel, state: SceneState, query: Query, **how) -> Tensor:
    return model.query(query, model.freeze(state), ("rgb",), **how).rgb


@torch.no_grad()
def test_each_view_attends_to_the_cells_of_its_own_frames_at_age_0() -> None:
    layer, x = window_layer(), frames(9, batch=2)
    state = wrote(layer, x[:, :7], (4, 3))
    cells = FrameCells(*layer.project(layer.norm(x[:, :7]), GRID))
    places = torch.tensor([[[0, 4, 1], [6, 2, 5]], [[3, 0, 2], [1, 6, 4]]])
    near = state._replace(nearest=Nearest(places, None, cells))
    _, answer, _ = layer.run(None, x[:, 7:], near, None, None, GRID)
    for scene in range(2):
        for view in range(2):
            asked = x[scene, 7 + view]
            seen = [(x[scene, place], 0) for place in places[scene, view].tolist()]
            torch.testing.assert_close(answer[scene, view], by_hand(layer, asked, seen), **TABLES)
            assert float((answer[scene, view] - asked).abs().max()) > 0.05


def test_gradients_reach_what_the_nearest_frames_wrote() -> None:
    layer, x = window_layer(), frames(2, batch=2)
    cells = FrameCells(*torch.randn(2, 2, 3, 4, 16, dtype=torch.float64).requires_grad_())
    queries = layer._queries(layer.norm(x), GRID).detach()
    places = torch.tensor([[[0, 2], [1, 2]], [[1, 0], [2, 0]]])

    def read(keys: Tensor, values: Tensor) -> Tensor:
        return layer.read_nearest(queries, FrameCells(keys, values), places)

    assert torch.autograd.gradcheck(read, tuple(cells))


@torch.no_grad()
def test_views_that_know_no_bank_read_the_window() -> None:
    layer, x = window_layer(), frames(9)
    state = wrote(layer, x[:, :7], (4, 3))
    cells = layer.project(layer.norm(x[:, :7]), GRID)
    near = Nearest(torch.tensor([[[0, 1], [2, 3]]]), None, cells)

    def read(views: Tensor | None) -> Tensor:
        given = state._replace(nearest=near._replace(views=views))
        return layer.run(None, x[:, 7:], given, None, None, GRID)[1]

    windowed = layer.run(None, x[:, 7:], state, None, None, GRID)[1]
    mixed, every = read(torch.tensor([[False, True]])), read(None)
    assert torch.equal(mixed[:, 0], windowed[:, 0])
    assert torch.equal(mixed[:, 1], every[:, 1])
    assert not torch.equal(mixed[:, 1], windowed[:, 1])


@torch.no_grad()
@pytest.mark.parametrize("count", [4, 5], ids=["as many frames as slots", "one more"])
def test_only_a_bank_of_more_frames_than_slots_is_asked(count: int) -> None:
    model = model_of()
    seen = episode((1,) * count)
    state = streamed(model, seen)
    query = Query(seen.targets.cameras, time_s=seen.targets.time_s)
    asked = model.freeze(state)
    cameras = asked.gauge.cameras_to_model(query.cameras)
    time_s = asked.clock.since_origin(query.time_s, 2)
    layers = with_nearest(asked.layers, WINDOW, cameras, time_s, asked.bank)
    if count == 4:
        assert layers is asked.layers
        return
    expected = nearest_sources(cameras, time_s, asked.bank, 4)[0]
    for index, kept in ((0, asked.bank.cells[:4]), (3, asked.bank.cells[4:])):
        near = layers[index].nearest
        assert torch.equal(near.places, expected)
        assert all(a is b for a, b in zip(near.frames, kept, strict=True))
    assert layers[1] is asked.layers[1]
    # what is remembered of the nearest frames matters, and what is remembered of the others doesn't
    places = expected[0, 0].tolist()
    (left,) = set(range(5)) - set(places)
    one = Query(query.cameras[:1, :1], time_s=query.time_s[:1, :1])
    single = map_tensors(lambda t: t[:1], state)
    before = answers(model, single, one)
    for place, matters in ((left, False), (places[0], True)):
        cells = tuple(part.clone() for part in single.bank.cells)
        for part in cells:
            part[:, place] += 1
        changed = replace(single, bank=replace(single.bank, cells=cells))
        assert torch.equal(answers(model, changed, one), before) != matters


@pytest.mark.parametrize("schedule", [CHUNK_CAUSAL, SHIFTED], ids=lambda s: s.name)
@pytest.mark.parametrize("chunks", [(2, 2, 3), (7,), (1,) * 5], ids=str)
def test_chunk_by_chunk_equals_layer_by_layer(monkeypatch, schedule: Schedule, chunks) -> None:
    model = model_of().double()
    for index in (0, 3):
        torch.nn.init.normal_(model.layers[index].out.weight, std=0.3)
    seen = episode(chunks, dtype=torch.float64)
    mask = torch.tensor([[True, False], [False, True]])
    state, outs = model(replace(seen, bank_mask=mask), schedule)
    left = replace(state, fingerprint=model.fingerprint)  # a whole episode's can be asked as well
    stream = streamed(model, seen, schedule)
    query = Query(seen.targets.cameras, time_s=seen.targets.time_s)
    for known in (True, False):
        answer = answers(model, stream, query, bank=known)
        told = outs.targets.rgb.clamp(0, 1)[mask == known]
        torch.testing.assert_close(told, answer[mask == known], **ROUNDED)
        torch.testing.assert_close(answers(model, left, query, bank=known), answer, **PICTURES)
    with monkeypatch.context() as without:
        without.setattr(scene_model_module, "with_nearest", lambda layers, *_: layers)
        windowed = answers(model, stream, query)
    near = answers(model, stream, query)
    assert float((near - windowed).abs().max()) > 10 * ROUNDED["atol"]
    outs.targets.rgb.square().sum().backward()
    gradient = model.layers[0].kv.weight.grad
    assert gradient.isfinite().all()
    assert gradient.any()


@torch.no_grad()
def test_a_query_of_a_set_depends_on_no_order() -> None:
    model = model_of().double()
    seen = episode((7,), dtype=torch.float64)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    shuffled = replace(
        seen.inputs,
        images=seen.inputs.images[:, order],
        cameras=seen.inputs.cameras[:, order],
        time_s=seen.inputs.time_s[:, order],
    )
    (_, one), (_, other) = (model(replace(seen, inputs=v), SET) for v in (seen.inputs, shuffled))
    torch.testing.assert_close(other.targets.rgb, one.targets.rgb, **EXACT)


@torch.no_grad()
def test_cells_stay_with_their_frame_while_the_bank_turns_over() -> None:
    model = model_of(capacity=5)
    seen = episode((2,) * 6, batch=1)
    state, wrote_ = model.init_state(1), []
    for start in range(0, 12, 2):
        part = seen.inputs[start : start + 2]
        first = {"gauge": seen.gauge} if start == 0 else {}
        before = replace(state, gauge=seen.gauge)
        state = model.observe(part.images, part.cameras, part.time_s, state, **first)
        fresh = cells_of(model, before, Views(*chunk_of(model, before, part)))
        wrote_ += [tuple(part[:, n] for part in fresh) for n in range(2)]
        held = 1, min(start + 2, 5), 4
        shapes = [(tuple(part.shape), part.dtype) for part in state.bank.cells]
        assert shapes == [((*held, 64), torch.int8), ((*held, 1), torch.float32)] * 4
    assert state.layers[0].arrived is None
    kept = [round(float(t) / 0.3) for t in state.bank.time_s[0]]
    assert kept != list(range(7, 12)), "the bank kept other frames than the last"
    for place, frame in enumerate(kept):
        for part, expected in zip(state.bank.cells, wrote_[frame], strict=True):
            assert torch.equal(part[:, place], expected)


def chunk_of(model: SceneModel, state: SceneState, part: Views) -> tuple:
    """A chunk's pictures, its cameras in the gauge and its times, as `write` takes them."""
    clock = state.clock.started(part.time_s)
    times = clock.since_origin(part.time_s, part.images.shape[1])
    return part.images, state.gauge.cameras_to_model(part.cameras), times


def cells_of(model: SceneModel, state: SceneState, chunk: Views) -> list[Tensor]:
    """What a bank keeps of what a chunk's frames write into a state's windows."""
    steps = model.config.step.steps(state.clock.chunks)[:, None]
    given = chunk.images, chunk.cameras, chunk.time_s
    layers = model.write(*given, state.layers, steps, CHUNK_CAUSAL)
    return [t for layer in (layers[0], layers[3]) for t in layer.arrived.kept()]


def test_kept_cells_are_theirs_to_a_part_in_254_of_each_cell_s_largest() -> None:
    cells = FrameCells(
        *(torch.randn(2, 3, 4, 64) * 10.0 ** torch.arange(-4, 4)[:, None].view(2, 1, 4, 1))
    )
    rows, places = torch.arange(2)[:, None, None], torch.tensor([[[2, 0]], [[1, 1]]])
    kept, exact = (some.at(rows, places) for some in (cells.kept(), cells))
    for ours, theirs in zip(kept, exact, strict=True):
        apart = (ours - theirs).abs()
        largest = theirs.abs().amax(-1, keepdim=True)
        assert bool((apart <= largest / 254 * 1.0001).all())
        assert float(apart.max()) > 0
    nothing = FrameCells(*torch.zeros(2, 1, 1, 4, 64)).kept()
    places = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert not any(part.any() for part in nothing.at(places, places))


@torch.no_grad()
def test_frames_that_are_replayed_are_kept_once() -> None:
    model = model_of()
    seen = episode((3, 2), batch=1)
    state = streamed(model, replace(seen, inputs=seen.inputs[:3], chunk_views=(3,)))
    part = seen.inputs[3:5]
    given = part.images, part.cameras, part.time_s, state
    places = torch.tensor([[0, 2]])
    after = model.observe(*given, replayed_BR=places)
    assert after.bank.size == 5
    both = Views(*state.bank.select(places).before(*chunk_of(model, state, part)))
    expected = cells_of(model, state, both)
    for now, before, fresh in zip(after.bank.cells, state.bank.cells, expected, strict=True):
        assert torch.equal(now[:, :3], before)
        assert torch.equal(now[:, 3:], fresh[:, 2:])
        assert not torch.equal(now[:, 3:], fresh[:, :2])


@torch.no_grad()
def test_a_chunk_that_is_discarded_leaves_no_cells() -> None:
    model = model_of()
    seen = episode((3, 2))
    state = streamed(model, replace(seen, inputs=seen.inputs[:3], chunk_views=(3,)))
    part = seen.inputs[3:5]
    gate = torch.zeros(2)
    after = model.observe(part.images, part.cameras, part.time_s, state, gate_B=gate)
    assert after.bank is state.bank


@torch.no_grad()
def test_a_state_is_stored_with_its_cells_and_refused_without() -> None:
    model = model_of()
    state = streamed(model, episode((3, 3), batch=1))
    tensors, facts = state_to_tensors(state)
    template = model.init_state(1)
    back = state_from_tensors(tensors, facts, template)
    left, right = dict(named_tensors(back)), dict(named_tensors(state))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name].nan_to_num(), right[name].nan_to_num()) for name in left)
    name = "bank.cells.4"
    with pytest.raises(StateError, match=r"lacks the tensor .bank\.cells\.4."):
        state_from_tensors({k: t for k, t in tensors.items() if k != name}, facts, template)
    for other in (tensors[name][:, 1:], tensors[name][..., :32], tensors[name].float()):
        with pytest.raises(StateError, match="cells of the state's bank don't match"):
            state_from_tensors(tensors | {name: other}, facts, template)


@torch.no_grad()
def test_queries_of_a_full_bank_are_one_graph() -> None:
    model = model_of(capacity=5)
    seen = episode((1,) * 9, batch=1)
    recorder = StandIn()
    answer = CapturedQuery(model, recorder)
    state = streamed(model, replace(seen, inputs=seen.inputs[:5], chunk_views=(1,) * 5))
    for start in range(5, 9):
        part = seen.inputs[start : start + 1]
        state = model.observe(part.images, part.cameras, part.time_s, state)
        query = Query(orbit(1, 1), time_s=torch.full((1, 1), 5.0 + start).double())
        shown = answer(query, model.freeze(state))
        assert torch.equal(shown.rgb, model.query(query, model.freeze(state)).rgb)
    assert (recorder.eager, recorder.recorded) == (EAGER_USES, 1)


def test_slots_are_the_last_frames_and_the_first() -> None:
    assert WindowConfig(frames=6, sinks=2).slots == 8


@torch.no_grad()
def test_cells_that_are_not_finite_are_not_published() -> None:
    state = streamed(model_of(), episode((3, 3), batch=1))
    gate = WriteGate(GateThresholds())
    assert gate.judge_state(state).is_written
    state.bank.cells[1][0, 2, 0, 0] = torch.nan
    assert gate.judge_state(state).reason == "bank.cells.1 is not finite"


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [CHUNK_CAUSAL, SET], ids=lambda s: s.name)
def test_it_compiles_without_breaks(schedule: Schedule) -> None:
    plain, compiled = model_of().double(), model_of().double()
    seen = replace(
        episode((2, 3), dtype=torch.float64), bank_mask=torch.tensor([[True, False]] * 2)
    )
    with without_breaks():
        compiled.compile_blocks(backend="aot_eager", fullgraph=True, dynamic=False)
        (state, outs), (other, found) = (model(seen, schedule) for model in (plain, compiled))
    torch.testing.assert_close(found.targets.rgb, outs.targets.rgb, **PICTURES)
    expected = dict(named_tensors(state))
    assert any(name.startswith(".bank.cells") for name in expected)
    told = dict(named_tensors(other))
    assert told.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(told[name], tensor, equal_nan=True, rtol=0, atol=1e-2, msg=name)
