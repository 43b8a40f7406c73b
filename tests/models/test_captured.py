"""Captured queries and writes: what is filled, recorded again, kept and given up.

A stand-in replays, so this is about everything but the GPU (tests/models/test_captured_gpu.py).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from everview.models.captured import (
    EAGER_USES,
    FORMS_KEPT,
    CapturedQuery,
    CapturedWrite,
    CaptureError,
    _OrPlain,
    answering,
    writing,
)
from everview.models.config import tiny
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.state import map_tensors, named_tensors
from tests.models.crossings import Crossings, pretend_gpu
from tests.models.fine_models import BANK
from tests.models.scenes import episode, orbit, scene_model, streamed
from tests.models.standin_recorder import StandIn

USES = EAGER_USES + 2
"""Until a form was recorded and replayed twice."""


def same(found, expected) -> None:
    pairs = zip(named_tensors(found), named_tensors(expected), strict=True)
    for (name, one), (_, other) in pairs:
        assert torch.equal(one, other), name


@pytest.fixture(scope="module")
def model() -> SceneModel:
    return scene_model(bank=tiny().bank)


@torch.inference_mode()
def test_answers_are_those_of_plain_queries_for_every_camera(model: SceneModel) -> None:
    view = model.freeze(streamed(model, episode((2,), batch=1)))
    recorder = StandIn()
    answer = CapturedQuery(model, recorder)
    cameras = orbit(1, 8)
    for turn in range(USES + 2):
        query = Query(cameras[:, turn : turn + 2], time_s=torch.full((1, 2), 5.0 + turn).double())
        same(answer(query, view), model.query(query, view))
    assert (recorder.eager, recorder.recorded) == (EAGER_USES, 1)
    assert recorder.replayed == 4


@torch.inference_mode()
def test_another_view_is_swapped_in_without_recording_again(model: SceneModel) -> None:
    views = [model.freeze(streamed(model, episode((2,), batch=1, seed=seed))) for seed in range(3)]
    recorder = StandIn()
    answer, query = CapturedQuery(model, recorder), Query(orbit(1, 1))
    for view in (views[0],) * USES + (views[1], views[2], views[0], views[0]):
        same(answer(query, view), model.query(query, view))
    assert recorder.recorded == 1
    assert not torch.equal(answer(query, views[0]).rgb, answer(query, views[1]).rgb)


@torch.inference_mode()
def test_a_result_outlives_the_next_replay(model: SceneModel) -> None:
    view = model.freeze(streamed(model, episode((2,), batch=1)))
    answer, cameras = CapturedQuery(model, StandIn()), orbit(1, 2)
    for _ in range(USES):
        first = answer(Query(cameras[:, :1]), view)
    kept = first.rgb.clone()
    second = answer(Query(cameras[:, 1:]), view)
    assert torch.equal(first.rgb, kept)
    assert not torch.equal(second.rgb, kept)


@torch.inference_mode()
def test_other_shapes_heads_and_banks_are_forms_of_their_own_and_few_are_kept(
    model: SceneModel,
) -> None:
    view = model.freeze(streamed(model, episode((2,), batch=1)))
    fuller = model.freeze(streamed(model, episode((2, 2), batch=1)))
    recorder = StandIn()
    answer = CapturedQuery(model, recorder)
    one, two = Query(orbit(1, 1)), Query(orbit(1, 2))
    wide = Query(orbit(1, 1, 16, 24))
    asked = [
        (one, view, ("rgb",), True),
        (two, view, ("rgb",), True),
        (wide, view, ("rgb",), True),
        (one, fuller, ("rgb",), True),
        (one, view, ("rgb", "depth"), True),
        (one, view, ("rgb",), False),
    ]
    for query, seen, heads, bank in asked:
        for _ in range(USES):
            found = answer(query, seen, heads, bank=bank)
            same(found, model.query(query, seen, heads, bank=bank))
    assert recorder.recorded == len(asked)
    assert answer.captured.num_recorded == FORMS_KEPT
    assert recorder.settlings == len(asked) - FORMS_KEPT


@torch.inference_mode()
def test_a_caller_s_arithmetic_is_a_form_of_its_own(model: SceneModel) -> None:
    view = model.freeze(streamed(model, episode((2,), batch=1)))
    answer, query = CapturedQuery(model, StandIn()), Query(orbit(1, 1))
    for enabled in (False, True):
        for _ in range(USES):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                same(answer(query, view), model.query(query, view))
    assert answer.captured.num_recorded == 2


def test_captured_writes_stream_what_plain_ones_do(model: SceneModel) -> None:
    """Five chunks: the first plain, then recorded, then replayed; states stay as they were."""
    seen = episode((2,) * 5, batch=1)
    recorder = StandIn()
    write = CapturedWrite(model, recorder)
    plain = captured = model.init_state(1)
    gauge, history = seen.gauge, []
    with torch.no_grad():
        for start in range(0, 10, 2):
            part = seen.inputs[start : start + 2]
            given = (part.images, part.cameras, part.time_s)
            first = {"gauge": gauge} if start == 0 else {}
            plain = model.observe(*given, plain, **first)
            captured = model.observe(*given, captured, **first, write=write)
            same(captured, plain)
            history.append((captured, [t.clone() for _, t in named_tensors(captured)]))
    assert (recorder.eager, recorder.recorded) == (EAGER_USES, 1)
    for state, tensors in history:
        for (name, tensor), kept in zip(named_tensors(state), tensors, strict=True):
            assert torch.equal(tensor, kept), name


@torch.inference_mode()
def test_what_cannot_be_captured_says_so_and_goes_on_plainly(
    model: SceneModel, caplog: pytest.LogCaptureFixture
) -> None:
    view, query = model.freeze(streamed(model, episode((2,), batch=1))), Query(orbit(1, 1))
    strict = CapturedQuery(model, StandIn(fails=True))
    for _ in range(EAGER_USES):
        strict(query, view)
    with pytest.raises(CaptureError, match="not permitted when stream is capturing"):
        strict(query, view)
    lenient = _OrPlain("queries", CapturedQuery(model, StandIn(fails=True)), model.query)
    for _ in range(USES):
        same(lenient(query, view), model.query(query, view))
    assert len(caplog.records) == 1
    assert "not permitted" in caplog.text


@torch.inference_mode()
def test_what_a_query_itself_refuses_comes_through(model: SceneModel) -> None:
    view = model.freeze(streamed(model, episode((2,), batch=1)))
    with pytest.raises(ValueError, match="no head 'colour'"):
        CapturedQuery(model, StandIn())(Query(orbit(1, 1)), view, ("colour",))


@torch.inference_mode()
def test_queries_that_are_refused_push_no_graph_out(model: SceneModel) -> None:
    view, recorder = model.freeze(streamed(model, episode((2,), batch=1))), StandIn()
    answer = CapturedQuery(model, recorder)
    sizes = [Query(orbit(1, count)) for count in range(1, FORMS_KEPT + 1)]
    for query in sizes * USES:
        answer(query, view)
    for number in range(FORMS_KEPT):
        with pytest.raises(ValueError, match="no head"):
            answer(sizes[0], view, (f"colour{number}",))
    for query in sizes:
        answer(query, view)
    assert (recorder.recorded, recorder.settlings) == (FORMS_KEPT, 0)


@torch.inference_mode()
def test_a_thread_runs_plainly_what_it_records(model: SceneModel) -> None:
    view, recorder = model.freeze(streamed(model, episode((2,), batch=1))), StandIn()
    answer, query = CapturedQuery(model, recorder), Query(orbit(1, 1))
    for _ in range(EAGER_USES):
        answer(query, view)
    with ThreadPoolExecutor(1) as threads:
        same(threads.submit(answer, query, view).result(), model.query(query, view))
    answer(query, view)
    assert (recorder.eager, recorder.recorded) == (EAGER_USES + 1, 1)


def _replaced_data(model: SceneModel) -> None:
    bias = model.head.pixels.bias
    bias.data = bias.data.clone()


def _replaced_parameter(model: SceneModel) -> None:
    model.head.pixels.bias = torch.nn.Parameter(model.head.pixels.bias.detach().clone())


def _replaced_buffer(model: SceneModel) -> None:
    model.head.log_depths = model.head.log_depths.clone()


@pytest.mark.parametrize(
    "change",
    [
        _replaced_data,
        _replaced_parameter,
        _replaced_buffer,
        lambda model: model.double().float(),
        lambda model: model.compile_blocks(backend="eager"),
    ],
    ids=["data", "parameter", "buffer", "to", "compile_blocks"],
)
def test_weights_that_lie_elsewhere_or_other_code_are_another_form(change) -> None:
    model = scene_model()
    view, recorder = model.freeze(streamed(model, episode((2,), batch=1))), StandIn()
    answer, query = CapturedQuery(model, recorder), Query(orbit(1, 1))
    for _ in range(USES):
        answer(query, view)
    change(model)
    for _ in range(USES):
        answer(query, view)
    assert (recorder.eager, recorder.recorded) == (2 * EAGER_USES, 2)


def test_weights_written_in_place_stay_one_form() -> None:
    model = scene_model()
    view, recorder = model.freeze(streamed(model, episode((2,), batch=1))), StandIn()
    answer, query = CapturedQuery(model, recorder), Query(orbit(1, 1))
    for _ in range(USES):
        before = answer(query, view)
    with torch.no_grad():
        model.head.pixels.bias += 0.1
    found = answer(query, view)
    assert not torch.equal(found.rgb, before.rgb)
    same(found, model.query(query, view))
    assert recorder.recorded == 1


def test_a_model_that_was_moved_away_is_not_captured() -> None:
    model = scene_model()
    view = model.freeze(streamed(model, episode((2,), batch=1)))
    answer = CapturedQuery(model, StandIn())
    model.to("meta")
    with pytest.raises(CaptureError, match="moved from cpu to meta"):
        answer(Query(orbit(1, 1)), view)


def test_a_cpu_is_served_plainly(model: SceneModel) -> None:
    assert answering(model) == model.query
    assert writing(model) == model.write


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory_writes": ("w0", "w1", "w2")},
        {"stack": "WTSF"},
        {"cross_view": 2},
        {"bank": BANK},
        {"bank": BANK, "tokens_a_view": 1},
    ],
    ids=["w1", "w0+w1+w2", "window", "across views", "fine", "reduced"],
)
@pytest.mark.parametrize("products", [None, torch.bfloat16], ids=["own", "bfloat16"])
def test_queries_and_writes_neither_wait_for_a_gpu_nor_copy_from_the_host(
    changes, products, monkeypatch
) -> None:
    pretend_gpu(monkeypatch)
    config = replace(tiny(), **changes)
    shapes = episode((2, 2), batch=1)
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            model = SceneModel(config).eval()
        model._fingerprint.known = (model._fingerprint.versions(model), "fake")
        seen = map_tensors(lambda t: torch.zeros(t.shape, dtype=t.dtype, device="cuda"), shapes)
        images, cameras, times = seen.inputs.images, seen.inputs.cameras, seen.inputs.time_s
        state = model.observe(images, cameras, times, model.init_state(1), gauge=seen.gauge)
        view = replace(model.freeze(state), products=products)
        with Crossings("cuda") as crossings:
            steps = torch.ones(1, 1, device="cuda")
            model.write(images, cameras, times.float(), state.layers, steps, CHUNK_CAUSAL)
            for bank in (True, False):
                model.query(Query(cameras, time_s=times), view, bank=bank)
                model.query(Query(cameras), view, ("rgb", "memory_rgb"), bank=bank)
    assert crossings.found == []
