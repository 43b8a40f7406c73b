"""The schedules' equalities: what streams as it was trained, and what sees no order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.config import BankConfig
from everview.models.episode import Episode
from everview.models.queries import Query
from everview.models.schedule import CHUNK_CAUSAL, CHUNKED_SET, SET, SHIFTED, Schedule
from everview.models.state import named_tensors
from everview.models.views import Views
from tests.models.scenes import episode, scene_model, streamed

CAUSAL = [CHUNK_CAUSAL, SHIFTED]
EXACT = {"rtol": 0, "atol": 1e-12}


def layer_tensors(state):
    return dict(named_tensors(state.layers))


def test_a_printed_schedule_is_its_documentation() -> None:
    assert "; ".join(map(str, SET.operations(2))) == "update 0+1; apply 0+1"
    assert "; ".join(map(str, CHUNKED_SET.operations(2))) == "update 0; update 1; apply 0+1"
    assert "; ".join(map(str, CHUNK_CAUSAL.operations(2))) == (
        "update 0; apply 0; update 1; apply 1"
    )
    assert "; ".join(map(str, SHIFTED.operations(2))) == "apply 0; update 0; apply 1; update 1"
    with pytest.raises(ValueError, match="0 chunks"):
        SET.operations(0)


@pytest.mark.parametrize("schedule", CAUSAL, ids=lambda s: s.name)
@pytest.mark.parametrize("chunks", [(2, 2), (1, 3)], ids=["equal", "ragged"])
@pytest.mark.parametrize("writes", [("w1",), ("w0", "w1", "w2")], ids=len)
def test_chunk_by_chunk_equals_layer_by_layer(
    schedule: Schedule, chunks: tuple[int, ...], writes: tuple[str, ...]
) -> None:
    model = scene_model(memory_writes=writes).double()
    seen = episode(chunks, dtype=torch.float64)
    state, outs = model(seen, schedule)
    outs.targets.rgb.square().sum().backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    stream = streamed(model, seen, schedule)
    asked = Query(seen.targets.cameras, time_s=seen.targets.time_s)
    answer = model.query(asked, model.freeze(stream), ("rgb", "depth"))
    answer.rgb.square().sum().backward()

    for name, tensor in layer_tensors(stream).items():
        torch.testing.assert_close(tensor, layer_tensors(state)[name], **EXACT)
    torch.testing.assert_close(answer.rgb, outs.targets.rgb, **EXACT)
    torch.testing.assert_close(answer.log_depth, outs.targets.log_depth, **EXACT)
    assert torch.equal(stream.clock.chunks, state.clock.chunks)
    assert trained
    for name, parameter in model.named_parameters():
        if name in trained:
            assert parameter.grad is not None, name
            scale = trained[name].abs().max().clamp_min(1.0)
            # with all matrices written, directions depend on the state and Newton-Schulz's
            # backward multiplies rounding by up to 1e4
            bound = 1e-12 if writes == ("w1",) else 1e-10
            torch.testing.assert_close(
                parameter.grad / scale, trained[name] / scale, rtol=0, atol=bound
            )


def test_a_stream_copies_from_the_same_frames_as_training() -> None:
    model = scene_model(bank=BankConfig(hypotheses=8, features=8, groups=4, refine_channels=8))
    seen = episode((2, 2))
    with torch.no_grad():
        _, outs = model(seen, CHUNK_CAUSAL)
        view = model.freeze(streamed(model, seen))
        answer = model.query(Query(seen.targets.cameras, time_s=seen.targets.time_s), view)
    assert (outs.targets.rgb - outs.targets.direct_rgb).abs().max() > 1e-3, "nothing was copied"
    torch.testing.assert_close(answer.rgb, outs.targets.rgb.clamp(0, 1), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_clock_that_starts_late_starts_late_in_training_too() -> None:
    model = scene_model().double()
    seen = episode((1, 1, 1), dtype=torch.float64)
    times = torch.tensor([[torch.nan, 7.0, 8.5], [3.0, torch.nan, 4.0]]).double()
    seen = replace(seen, inputs=replace(seen.inputs, time_s=times))
    state, outs = model(seen, CHUNK_CAUSAL)
    stream = streamed(model, seen)
    assert torch.equal(stream.clock.origin_s, state.clock.origin_s)
    assert state.clock.origin_s.tolist() == [7.0, 3.0]
    asked = Query(seen.targets.cameras, time_s=seen.targets.time_s)
    answer = model.query(asked, model.freeze(stream))
    torch.testing.assert_close(answer.rgb, outs.targets.rgb, **EXACT)


@pytest.mark.parametrize("schedule", CAUSAL, ids=lambda s: s.name)
def test_nothing_after_a_chunk_changes_what_its_tokens_gave(schedule: Schedule) -> None:
    model = scene_model().double()
    whole = episode((2, 1, 2), dtype=torch.float64)
    part = Episode(whole.inputs[:3], whole.targets, (2, 1), whole.gauge)
    with torch.no_grad():
        _, longer = model(whole, schedule)
        _, shorter = model(part, schedule)
    torch.testing.assert_close(longer.inputs.rgb[:, :3], shorter.inputs.rgb, **EXACT)


@pytest.mark.parametrize("schedule", [SET, CHUNKED_SET], ids=lambda s: s.name)
def test_sets_let_the_first_chunk_see_the_last(schedule: Schedule) -> None:
    model = scene_model().double()
    whole = episode((2, 2), dtype=torch.float64)
    part = Episode(whole.inputs[:2], whole.targets, (2,), whole.gauge)
    with torch.no_grad():
        _, longer = model(whole, schedule)
        _, shorter = model(part, schedule)
    assert (longer.inputs.rgb[:, :2] - shorter.inputs.rgb).abs().max() > 1e-9


def test_with_one_chunk_three_schedules_agree() -> None:
    model = scene_model().double()
    seen = episode((3,), dtype=torch.float64)
    with torch.no_grad():
        results = [model(seen, schedule) for schedule in (SET, CHUNKED_SET, CHUNK_CAUSAL)]
    for state, outs in results[1:]:
        torch.testing.assert_close(outs.targets.rgb, results[0][1].targets.rgb, **EXACT)
        torch.testing.assert_close(outs.inputs.rgb, results[0][1].inputs.rgb, **EXACT)
        for name, tensor in layer_tensors(state).items():
            torch.testing.assert_close(tensor, layer_tensors(results[0][0])[name], **EXACT)


def test_set_ignores_the_order_of_views_and_where_chunks_end() -> None:
    model = scene_model().double()
    seen = episode((2, 2), dtype=torch.float64)
    order = torch.tensor([3, 0, 2, 1])
    views = seen.inputs
    shuffled = Views(views.images[:, order], views.cameras[:, order], views.time_s[:, order])
    with torch.no_grad():
        state, outs = model(seen, SET)
        others = [model(replace(seen, inputs=shuffled, chunk_views=c), SET) for c in [(1, 3), (4,)]]
    for other_state, other in others:
        torch.testing.assert_close(other.targets.rgb, outs.targets.rgb, **EXACT)
        for name, tensor in layer_tensors(other_state).items():
            torch.testing.assert_close(tensor, layer_tensors(state)[name], **EXACT)


def test_the_first_chunk_of_shifted_reads_the_initial_state() -> None:
    """Its tokens come out as query tokens with the same content would before anything is seen."""
    model = scene_model().double()
    seen = episode((2,), dtype=torch.float64)
    initial = model.init_state(2)
    cameras = seen.gauge.cameras_to_model(seen.inputs.cameras)
    clock = initial.clock.started(seen.inputs.time_s)
    tokens = model.embed(cameras, seen.inputs.images, clock.since_origin(seen.inputs.time_s, 2))
    with torch.no_grad():
        _, outs = model(seen, SHIFTED)
        for layer, state in zip(model.layers, initial.layers, strict=True):
            _, tokens, _ = layer.run(None, tokens, state, None, None, model._grid(cameras))
    torch.testing.assert_close(outs.inputs.rgb, model.head(tokens, 16, 16).rgb, **EXACT)


def test_a_set_cannot_be_streamed() -> None:
    model = scene_model()
    with pytest.raises(ValueError, match="'set' isn't causal"):
        streamed(model, episode(), SET)


def test_chunks_must_add_up_to_the_inputs() -> None:
    seen = episode((2, 1))
    with pytest.raises(ValueError, match="don't add up"):
        replace(seen, chunk_views=(2, 2))
