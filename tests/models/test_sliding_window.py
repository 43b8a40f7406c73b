"""The letter S: what a window over time holds, who sees it, and that it stays as large as it is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from everview.models.captured import EAGER_USES, CapturedQuery, CapturedWrite
from everview.models.config import WindowConfig, tiny
from everview.models.context import Context
from everview.models.episode import Episode
from everview.models.layers.blocks import block_length
from everview.models.layers.grid import TokenGrid
from everview.models.layers.plan import Plan
from everview.models.layers.sliding_window import SlidingWindow, WindowState
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL, CHUNKED_SET, SET, SHIFTED, Schedule
from everview.models.state import (
    map_tensors,
    named_tensors,
    state_bytes,
    state_from_tensors,
    state_to_tensors,
)
from everview.models.views import Views
from tests.models.scenes import episode, orbit, scene_model, streamed
from tests.models.standin_recorder import StandIn

WINDOW = WindowConfig(frames=3, sinks=1, cells=2)
CONFIG = replace(tiny(), stack="STFS", dim=16, attention_head_dim=8, window=WINDOW)
EXACT = {"rtol": 0, "atol": 1e-12}
TABLES = {"rtol": 0, "atol": 1e-7}
"""Tables of positions are float32 in a float64 model too."""
ROWS, COLUMNS = 2, 3
GRID = TokenGrid.of(ROWS, COLUMNS, 8, torch.device("cpu"), WINDOW)
SIZE = (16, 24)


def window_layer(window: WindowConfig = WINDOW) -> SlidingWindow:
    torch.manual_seed(0)
    layer = SlidingWindow(replace(CONFIG, window=window)).double()
    torch.nn.init.normal_(layer.gate_weight)
    return layer


def frames(views: int, batch: int = 1, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, views, ROWS * COLUMNS, 16, generator=random, dtype=torch.float64)


def wrote(layer: SlidingWindow, x: Tensor, chunks: tuple[int, ...], state=None) -> WindowState:
    """The layer's state after these chunks."""
    plan = Plan.of(CHUNK_CAUSAL, chunks).writes_only()
    steps = torch.ones(len(x), len(chunks))
    return layer.run(x, None, state or layer.init_state(len(x)), plan, steps, GRID)[2]


def model_of(**changes) -> SceneModel:
    return scene_model(**({"stack": "STFS", "window": WINDOW} | changes))


def assert_same(a, b) -> None:
    left, right = dict(named_tensors(a)), dict(named_tensors(b))
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor.nan_to_num(-7.0), right[name].nan_to_num(-7.0)), name


# --- what it computes ----------------------------------------------------------------------------


def turned(x: Tensor, row: float, column: float, age: float) -> Tensor:
    """x [8]: pair (i, i + 4) turned; one pair by the row, one by the column, two by the age."""
    angles = torch.tensor([row, column, -age, -age / 10], dtype=torch.float64)
    a, b = x[:4], x[4:]
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine])


def cell_means(x_TC: Tensor) -> list[tuple[float, float, Tensor]]:
    """Middles and means of the 2 x 2 cells of 2 x 3 tokens: a cell is one row and 1.5 columns."""
    rows = x_TC.view(ROWS, COLUMNS, -1)
    cells = []
    for row in range(2):
        left = (rows[row, 0] + rows[row, 1] / 2) / 1.5
        right = (rows[row, 1] / 2 + rows[row, 2]) / 1.5
        cells += [(row + 0.5, 0.5, left), (row + 0.5, 1.5, right)]
    return cells


def by_hand(layer: SlidingWindow, x: Tensor, seen: list[tuple[Tensor, int]]) -> Tensor:
    """x [T, C] after attention to frames [T, C] of these ages, one product at a time."""
    normed = layer.norm(x)
    gate = torch.sigmoid(layer.gate_weight @ normed.mean(0) + layer.gate_bias)
    mixed = torch.zeros_like(x)
    for token in range(len(x)):
        row, column = divmod(token, COLUMNS)
        for head in range(2):
            channels = slice(8 * head, 8 * head + 8)
            q = functional.rms_norm(layer.query(normed[token])[channels], (8,), None, 1e-6)
            q = turned(q * layer.query_norm.weight, row + 0.5, (column + 0.5) * 2 / 3, 0)
            scores, values = [], []
            for frame, age in seen:
                for y, z, mean in cell_means(layer.norm(frame)):
                    k, v = layer.kv(mean).view(2, 16)[:, channels]
                    k = functional.rms_norm(k, (8,), None, 1e-6) * layer.key_norm.weight
                    scores.append(q @ turned(k, y, z, age) / math.sqrt(8))
                    values.append(v)
            weights = torch.softmax(torch.stack(scores), 0)
            mixed[token, channels] = gate[head] * (weights @ torch.stack(values))
    return x + layer.out(mixed)


@torch.no_grad()
def test_tokens_attend_to_cells_of_the_last_frames_and_of_the_first() -> None:
    """Six frames in chunks of 1: frame 5 sees 3, 4, 5 at their ages and 0 where sinks stay."""
    layer, x = window_layer(), frames(7)
    plan, steps = Plan.of(CHUNK_CAUSAL, (1,) * 6), torch.ones(1, 6)
    given, asked = x[:, :6], x[:, 6:]
    read, answer, _ = layer.run(given, asked, layer.init_state(1), plan, steps, GRID)
    last = [(x[0, 0], 3), (x[0, 3], 2), (x[0, 4], 1), (x[0, 5], 0)]
    torch.testing.assert_close(read[0, 5], by_hand(layer, x[0, 5], last), **TABLES)
    torch.testing.assert_close(answer[0, 0], by_hand(layer, x[0, 6], last), **TABLES)
    early = [(x[0, 0], 1), (x[0, 1], 0)]
    torch.testing.assert_close(read[0, 1], by_hand(layer, x[0, 1], early), **TABLES)


@torch.no_grad()
def test_a_chunk_sees_all_of_itself_and_the_window_of_its_first_frame() -> None:
    layer, x = window_layer(), frames(7)
    plan, steps = Plan.of(CHUNK_CAUSAL, (3, 4)), torch.ones(1, 2)
    read, answer, _ = layer.run(x, x[:, :1], layer.init_state(1), plan, steps, GRID)
    own = [(x[0, n], 0) for n in (3, 4, 5, 6)]
    around = [(x[0, 0], 3), (x[0, 1], 3), (x[0, 2], 3), *own]  # frame 0 has become the sink
    torch.testing.assert_close(read[0, 3], by_hand(layer, x[0, 3], around), **TABLES)
    left = [(x[0, 0], 3), *own[1:]]
    torch.testing.assert_close(answer[0, 0], by_hand(layer, x[0, 0], left), **TABLES)


@torch.no_grad()
def test_an_empty_window_adds_nothing() -> None:
    layer, x = window_layer(), frames(2)
    _, answer, state = layer.run(None, x, layer.init_state(1), None, None, GRID)
    assert torch.equal(answer, x)
    plan = Plan.of(SHIFTED, (2,))
    read, _, _ = layer.run(x, None, state, plan, torch.ones(1, 1), GRID)
    assert torch.equal(read, x)


def test_head_gates_start_nearly_open_whatever_they_see() -> None:
    layer = SlidingWindow(CONFIG)
    assert not layer.gate_weight.any()
    assert torch.allclose(layer.gate_bias.sigmoid(), torch.tensor(0.8808), atol=1e-4)
    model = model_of()
    assert not model.layers[0].gate_weight.any(), "the model's initialisation left it alone"
    with torch.no_grad():
        layer.gate_bias.fill_(-1e4)
        x = frames(2).float()
        _, answer, _ = layer.run(None, x, wrote(layer, x, (2,)), None, None, GRID)
    assert torch.equal(answer, x)


@torch.no_grad()
def test_positions_stay_in_the_trained_range_for_any_stream_and_any_size() -> None:
    layer = window_layer()
    state = layer.init_state(1)
    for _ in range(20):
        state = wrote(layer, frames(2), (1, 1), state)
        assert state.ages.min() >= -1
        assert state.ages.max() <= WINDOW.frames
    assert state.ages.tolist() == [[3, 2, 1, 0]]
    assert state.absorbed.tolist() == [40]
    spans = []
    for rows, columns in ((1, 1), (2, 3), (40, 9)):
        angles = TokenGrid.of(rows, columns, 8, torch.device("cpu"), WINDOW).window.tokens
        spans.append(torch.atan2(-angles[1][:, :2], angles[0][:, :2]))
    assert all(float(span.min()) > 0 and float(span.max()) < WINDOW.cells for span in spans)


@torch.no_grad()
def test_without_sinks_the_answer_is_a_matter_of_the_last_frames_alone() -> None:
    layer = window_layer(replace(WINDOW, sinks=0))
    x, old = frames(4), frames(9, seed=2)
    recent = wrote(layer, x[:, :3], (1, 2))
    later = wrote(layer, torch.cat([old, x[:, :3]], 1), (4, 5, 1, 2))
    answers = [layer.run(None, x[:, 3:], s, None, None, GRID)[1] for s in (recent, later)]
    torch.testing.assert_close(answers[1], answers[0], **EXACT)
    torch.testing.assert_close(later.keys, recent.keys, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(1,) * 9, (2, 3, 4), (9,), (1, 8)], ids=str)
def test_the_tail_is_the_last_frames_and_the_sinks_are_the_first(chunks) -> None:
    window = WindowConfig(frames=3, sinks=2, cells=2)
    layer, x = window_layer(window), frames(9, batch=2)
    keys, values = layer.project(layer.norm(x), GRID)
    state = wrote(layer, x, chunks)
    kept = [0, 1, 6, 7, 8]
    torch.testing.assert_close(state.keys, keys[:, kept], **EXACT)
    torch.testing.assert_close(state.values, values[:, kept], **EXACT)
    ends = [sum(chunks[: n + 1]) for n, views in enumerate(chunks) for _ in range(views)]
    assert state.ages[0].tolist() == [min(9 - ends[frame], 3) for frame in kept]


# --- schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [CHUNK_CAUSAL, SHIFTED], ids=lambda s: s.name)
@pytest.mark.parametrize("chunks", [(2, 2), (1, 1, 1, 1, 2), (5, 1)], ids=str)
def test_chunk_by_chunk_equals_layer_by_layer(schedule: Schedule, chunks) -> None:
    model = model_of().double()
    seen = episode(chunks, size=SIZE, dtype=torch.float64)
    state, outs = model(seen, schedule)
    outs.targets.rgb.square().sum().backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    stream = streamed(model, seen, schedule)
    asked = Query(seen.targets.cameras, time_s=seen.targets.time_s)
    answer = model.query(asked, model.freeze(stream), ("rgb",))
    answer.rgb.square().sum().backward()
    torch.testing.assert_close(answer.rgb, outs.targets.rgb, **EXACT)
    layers = dict(named_tensors(state.layers))
    for name, tensor in named_tensors(stream.layers):
        torch.testing.assert_close(tensor, layers[name], **EXACT)
    assert any("gate_weight" in name for name in trained)
    for name, parameter in model.named_parameters():
        if name in trained:
            scale = trained[name].abs().max().clamp_min(1.0)
            torch.testing.assert_close(parameter.grad / scale, trained[name] / scale, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("schedule", [CHUNK_CAUSAL, SHIFTED], ids=lambda s: s.name)
def test_nothing_after_a_chunk_changes_what_its_tokens_gave(schedule: Schedule) -> None:
    model = model_of().double()
    whole = episode((2, 1, 4), dtype=torch.float64)
    part = Episode(whole.inputs[:3], whole.targets, (2, 1), whole.gauge)
    _, longer = model(whole, schedule)
    _, shorter = model(part, schedule)
    torch.testing.assert_close(longer.inputs.rgb[:, :3], shorter.inputs.rgb, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("count", [2, 6], ids=["inside the window", "longer"])
def test_a_set_sees_all_of_itself_and_no_order(count: int) -> None:
    model = model_of().double()
    seen = episode((count,), dtype=torch.float64)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    views = seen.inputs
    shuffled = Views(views.images[:, order], views.cameras[:, order], views.time_s[:, order])
    state, outs = model(seen, SET)
    _, other = model(replace(seen, inputs=shuffled, chunk_views=(1, count - 1)), SET)
    torch.testing.assert_close(other.targets.rgb, outs.targets.rgb, **EXACT)
    torch.testing.assert_close(other.inputs.rgb[:, order.argsort()], outs.inputs.rgb, **EXACT)
    assert (state.layers[0].ages >= 0).sum(1).tolist() == [count, count]


@torch.no_grad()
def test_with_one_chunk_three_schedules_agree_as_long_as_the_window_holds_it() -> None:
    model = model_of().double()
    for count in (3, 4):
        seen = episode((count,), dtype=torch.float64)
        results = [model(seen, schedule) for schedule in (SET, CHUNKED_SET, CHUNK_CAUSAL)]
        for state, outs in results[1:]:
            torch.testing.assert_close(outs.targets.rgb, results[0][1].targets.rgb, **EXACT)
            torch.testing.assert_close(outs.inputs.rgb, results[0][1].inputs.rgb, **EXACT)
            if count == WINDOW.frames:
                assert_same(state.layers, results[0][0].layers)


@torch.no_grad()
def test_a_chunked_set_reads_the_window_after_its_last_chunk() -> None:
    layer, x = window_layer(), frames(5)
    plan, steps = Plan.of(CHUNKED_SET, (2, 3)), torch.ones(1, 2)
    read, _, state = layer.run(x, None, layer.init_state(1), plan, steps, GRID)
    _, asked, _ = layer.run(None, x, wrote(layer, x, (2, 3)), None, None, GRID)
    torch.testing.assert_close(read, asked, **EXACT)
    assert_same(state, wrote(layer, x, (2, 3)))


# --- the state -----------------------------------------------------------------------------------


@torch.no_grad()
def test_nan_in_rows_that_do_not_write_leaves_the_state_bit_for_bit() -> None:
    model = model_of()
    seen = episode((2, 1))
    lost = replace(seen.targets.cameras, c2w_cv=torch.full((2, 2, 4, 4), torch.nan).double())
    blind = Episode(seen.inputs, Views(None, lost, None), seen.chunk_views, seen.gauge)
    assert_same(model(blind, CHUNK_CAUSAL)[0], model(seen, CHUNK_CAUSAL)[0])
    state = streamed(model, seen)
    before, view = map_tensors(torch.clone, state), model.freeze(state)
    model.query(Query(seen.targets.cameras, torch.full_like(seen.targets.images, torch.nan)), view)
    assert_same(state, before)


@torch.no_grad()
def test_a_closed_gate_leaves_the_window_of_that_scene_bit_for_bit() -> None:
    model = model_of()
    seen = episode((2,))
    state = streamed(model, seen)
    images = seen.inputs.images.clone()
    images[0] = torch.nan
    views = (seen.inputs.cameras, seen.inputs.time_s, state)
    gated = model.observe(images, *views, gate_B=torch.tensor([0.0, 1.0]))
    open_ = model.observe(seen.inputs.images, *views)
    kept, wrote_ = dict(named_tensors(state.layers)), dict(named_tensors(open_.layers))
    for name, tensor in named_tensors(gated.layers):
        assert torch.equal(tensor[0], kept[name][0]), name
        assert torch.equal(tensor[1], wrote_[name][1]), name


@torch.no_grad()
def test_the_state_has_its_size_before_the_first_chunk_and_keeps_it() -> None:
    model = model_of()
    start = model.init_state(1)
    slots = WINDOW.frames + WINDOW.sinks
    of_a_window = slots * 4 * 64 * 2 * 4 + slots * 8 + 8
    memory = start.layers[1].weights.numel() * 4
    assert state_bytes(replace(start, layers=start.layers[:1])) == of_a_window + 16
    assert state_bytes(start) == 2 * of_a_window + memory + 16
    state = start
    shapes = {name: t.shape for name, t in named_tensors(start.layers)}
    for n in range(6):
        size = (16, 24) if n < 3 else (32, 8)  # the camera is turned
        seen = episode((1 + n,), batch=1, size=size)
        before = map_tensors(torch.clone, state)
        after = streamed(model, seen, state=state)
        assert_same(state, before)
        assert {name: t.shape for name, t in named_tensors(after.layers)} == shapes
        state = after
    tensors, facts = state_to_tensors(state)
    back = state_from_tensors(tensors, facts, model.init_state(1))
    assert_same(back, state)
    seen = episode((2,), batch=1)
    assert_same(streamed(model, seen, state=back), streamed(model, seen, state=state))


@torch.no_grad()
def test_float32_streams_stay_close_to_float64() -> None:
    seen = episode((1,) * 16, targets=1, batch=1)
    narrow = streamed(model_of(), seen)
    wide = streamed(
        model_of().double(),
        replace(seen, inputs=replace(seen.inputs, images=seen.inputs.images.double())),
    )
    exact = dict(named_tensors(wide.layers))
    for name, tensor in named_tensors(narrow.layers):
        torch.testing.assert_close(tensor.double(), exact[name].double(), rtol=0, atol=1e-4)


# --- how it is run -------------------------------------------------------------------------------


@torch.no_grad()
def test_a_stream_s_writes_and_queries_are_one_graph_each_from_the_first_chunk_on() -> None:
    model = model_of()
    seen = episode((2,) * 5, batch=1)
    recorders = StandIn(), StandIn()
    write, answer = CapturedWrite(model, recorders[0]), CapturedQuery(model, recorders[1])
    plain = captured = model.init_state(1)
    for start in range(0, 10, 2):
        part = seen.inputs[start : start + 2]
        given = (part.images, part.cameras, part.time_s)
        first = {"gauge": seen.gauge} if start == 0 else {}
        plain = model.observe(*given, plain, **first)
        captured = model.observe(*given, captured, **first, write=write)
        assert_same(captured, plain)
        query = Query(orbit(1, 1), time_s=torch.full((1, 1), 5.0 + start).double())
        shown = answer(query, model.freeze(captured))
        assert torch.equal(shown.rgb, model.query(query, model.freeze(plain)).rgb)
    for recorder in recorders:
        assert (recorder.eager, recorder.recorded) == (EAGER_USES, 1)


@torch.inference_mode()
def test_a_view_packed_in_bfloat16_shows_nearly_the_same() -> None:
    model = model_of(bank=tiny().bank, stack="WSF")
    seen = episode((2, 2, 2), size=(32, 32))
    state = streamed(model, seen)
    query = Query(seen.targets.cameras)
    packed = model.freeze(state, torch.bfloat16)
    assert packed.layers[1].keys.dtype == torch.bfloat16
    assert packed.layers[1].ages.dtype == torch.int64
    fast, full = (model.query(query, view, bank=False) for view in (packed, model.freeze(state)))
    assert fast.rgb.dtype == torch.float32
    assert 0 < float((fast.rgb - full.rgb).square().mean().sqrt()) < 1 / 255


def test_under_autocast_the_window_stays_float32_and_every_gradient_is_finite() -> None:
    model = model_of().train()
    with torch.autocast("cpu", torch.bfloat16):
        state, outs = model(episode((1,) * 5), CHUNK_CAUSAL)
        loss = outs.targets.rgb.square().mean() + outs.inputs.rgb.square().mean()
    loss.backward()
    assert state.layers[0].keys.dtype == state.layers[0].values.dtype == torch.float32
    for name, parameter in model.layers.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_ranks_that_divide_frames_hold_the_same_window(monkeypatch) -> None:
    """Two ranks with every second chunk's halves; the sum over ranks is taken by hand."""
    layer, x = window_layer(), frames(4)
    whole = wrote(layer, x, (4,))
    keys, values = layer.project(layer.norm(x), GRID)
    for part, expected in ((keys, whole.keys), (values, whole.values)):
        laid: list[Tensor] = []
        monkeypatch.setattr(Context, "total", lambda _, t, laid=laid: laid.append(t) or t)
        for index in range(2):
            context = Context(index, 2)
            context.whole_chunk(context.cut(part, (4,)))
        torch.testing.assert_close((laid[0] + laid[1])[:, 1:], expected[:, 1:], **EXACT)


def test_a_window_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 frame"):
        WindowConfig(frames=0)
    with pytest.raises(ValueError, match="rows, columns and time need 8"):
        replace(tiny(), stack="SF", dim=64, attention_head_dim=4)


def test_a_window_is_part_of_the_name_of_weights_that_have_one() -> None:
    other = WindowConfig(frames=5)
    assert scene_model(window=other).fingerprint == scene_model().fingerprint
    assert model_of(window=replace(WINDOW, frames=4)).fingerprint != model_of().fingerprint


def test_a_stack_with_a_window_in_every_second_block_is_compiled_in_blocks_of_both() -> None:
    assert block_length("WTFSTF" * 5) == 6
    assert block_length("WTF" * 10) == 3


@pytest.mark.slow
def test_it_compiles_without_breaks() -> None:
    from torch._dynamo.utils import counters

    plain, compiled = model_of(stack="SF"), model_of(stack="SF")
    torch._dynamo.reset()
    counters.clear()
    compiled.compile_blocks(backend="eager", fullgraph=True, dynamic=False)
    for model in (plain, compiled):
        _, outs = model(episode((2, 2)), CHUNK_CAUSAL)
        outs.targets.rgb.square().mean().backward()
    assert not counters["graph_break"]
    torch._dynamo.reset()
    for left, right in zip(plain.parameters(), compiled.parameters(), strict=True):
        if left.grad is not None:
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-3, atol=1e-5)
