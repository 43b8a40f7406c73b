"""Captured queries and writes on a GPU: the same pictures and states as without capture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from everview.models.captured import EAGER_USES, CapturedQuery, CapturedWrite, answering
from everview.models.config import WindowConfig, tiny
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.state import SceneState, named_tensors
from tests.models.scenes import episode, orbit, scene_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
USES = EAGER_USES + 3
SIZE = 64
APART = 1e-3
"""Relative norm of what may lie between states that the same kernels wrote."""


FINE = replace(tiny().bank, fine_offsets=(-2.0, -0.5, 0.5, 2.0))


def gpu_model(**changes) -> SceneModel:
    model = scene_model(dim=128, attention_head_dim=64, **changes).cuda().requires_grad_(False)
    if model.fine is not None:  # what begins by saying nothing
        torch.nn.init.normal_(model.fine.network.exit.weight, std=0.3)
    if model.warped is not None:
        torch.nn.init.normal_(model.warped.out.weight, std=0.3)
    return model


@torch.no_grad()
def seen_by(
    model: SceneModel, seed: int = 0, write=None, chunks: int = 1, size: int = SIZE
) -> list[SceneState]:
    """The states after each of `chunks` chunks of two views, under the arithmetic of training."""
    seen = episode((2,) * chunks, batch=1, size=(size, size), seed=seed)
    state, states = model.init_state(1), []
    for start in range(0, 2 * chunks, 2):
        part = seen.inputs[start : start + 2]
        given = (part.images.cuda(), part.cameras.to("cuda"), part.time_s.cuda())
        first = {"gauge": seen.gauge.to("cuda")} if start == 0 else {}
        with torch.autocast("cuda", torch.bfloat16):
            state = model.observe(*given, state, **first, write=write)
        states.append(state)
    return states


def close(found, expected) -> None:
    """Kernels may be chosen anew where memory lies otherwise; no more than that."""
    for (name, one), (_, other) in zip(named_tensors(found), named_tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2, msg=name)


def alike(found, expected) -> None:
    """For states that one set of kernels wrote: Newton-Schulz lifts small directions, so that
    single elements tell little."""
    for (name, one), (_, other) in zip(named_tensors(found), named_tensors(expected), strict=True):
        apart = (one.float() - other.float()).norm() / other.float().norm().clamp_min(1e-12)
        assert apart < APART, f"{name}: {apart:.2e}"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bank": tiny().bank},
        {"bank": FINE},
        {"bank": FINE, "tokens_a_view": 4},
        {"bank": replace(FINE, warped=2)},
        {"stack": "WTFSTF"},
        {"stack": "WTFSTF", "bank": tiny().bank, "window": WindowConfig(frames=1, sinks=0)},
    ],
    ids=["memory alone", "with bank", "fine sweep", "reduced", "warped", "window", "nearest"],
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@torch.inference_mode()
def test_pictures_are_those_of_plain_queries_after_a_swap_too(changes, compiled) -> None:
    model = gpu_model(**changes)
    if compiled:
        model.compile_blocks(dynamic=False)
    views = [model.freeze(seen_by(model, seed)[0], torch.bfloat16) for seed in (0, 1)]
    answer, cameras = CapturedQuery(model), orbit(1, 2 * USES, SIZE, SIZE).to("cuda")
    pictures = []
    for view in views:
        for turn in range(USES):
            query = Query(cameras[:, turn : turn + 2])
            found = answer(query, view)
            close(found, model.query(query, view))
            pictures.append(found.rgb)
    assert answer.captured.num_recorded == 1
    same_cameras = (pictures[USES - 1] - pictures[2 * USES - 1]).abs().max()
    assert same_cameras > 1e-4, "a state swapped in changes the picture"


@torch.inference_mode()
def test_other_sizes_are_recorded_beside_the_first() -> None:
    model = gpu_model()
    view, answer = model.freeze(seen_by(model)[0], torch.bfloat16), CapturedQuery(model)
    for count, size in ((1, SIZE), (3, SIZE), (1, 2 * SIZE), (1, SIZE)):
        for _ in range(USES):
            query = Query(orbit(1, count, size, size).to("cuda"))
            close(answer(query, view), model.query(query, view))
    assert answer.captured.num_recorded == 3


@torch.inference_mode()
def test_cameras_may_come_from_the_host_and_memory_does_not_grow() -> None:
    model = gpu_model()
    view, answer = model.freeze(seen_by(model)[0], torch.bfloat16), CapturedQuery(model)
    query = Query(orbit(1, 1, SIZE, SIZE))
    for _ in range(USES):
        answer(query, view)
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        close(answer(query, view), model.query(query, view))
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize(
    "changes",
    [{}, {"memory_writes": ("w0", "w1", "w2")}, {"stack": "WTFSTF"}],
    ids=["w1", "w0+w1+w2", "window"],
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_stream_of_captured_writes_leaves_the_states_of_plain_ones(changes, compiled) -> None:
    """SGD: compiled blocks against plain ones too."""
    model = gpu_model(memory_optimiser="sgd", **changes)
    plain = seen_by(model, chunks=USES)
    if compiled:
        model.compile_blocks(dynamic=False)
    write = CapturedWrite(model)
    captured = seen_by(model, chunks=USES, write=write)
    assert write.captured.num_recorded == 1
    for one, other in zip(captured, plain, strict=True):
        close(one.layers, other.layers)
        close(one.clock, other.clock)


@pytest.mark.parametrize("writes", [("w1",), ("w0", "w1", "w2")], ids="+".join)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_captured_writes_with_newton_schulz_leave_the_states_of_the_same_kernels(
    writes, compiled
) -> None:
    model = gpu_model(memory_writes=writes, memory_optimiser="muon")
    if compiled:
        model.compile_blocks(dynamic=False)
    plain = seen_by(model, chunks=USES)
    write = CapturedWrite(model)
    captured = seen_by(model, chunks=USES, write=write)
    assert write.captured.num_recorded == 1
    for one, other in zip(captured, plain, strict=True):
        alike(one.layers, other.layers)
        close(one.clock, other.clock)


def test_a_thread_that_pushes_and_one_that_renders_record_beside_each_other() -> None:
    """Either keeps one form and alternates between two, so both record and drop all the time."""
    model = gpu_model(memory_optimiser="sgd")
    rounds, plain = 4, {size: seen_by(model, chunks=USES, size=size) for size in (SIZE, 2 * SIZE)}
    with torch.inference_mode():
        view = model.freeze(plain[SIZE][0], torch.bfloat16)
        queries = [Query(orbit(1, count, SIZE, SIZE).to("cuda")) for count in (1, 2)]
        expected = [model.query(query, view) for query in queries]
    write, answer = CapturedWrite(model), CapturedQuery(model)
    write.captured.most = answer.captured.most = 1

    def push() -> None:
        for _ in range(rounds):
            for size, expected_states in plain.items():
                states = seen_by(model, write=write, chunks=USES, size=size)
                for one, other in zip(states, expected_states, strict=True):
                    close(one.layers, other.layers)

    @torch.inference_mode()
    def render() -> None:
        for _ in range(2 * rounds):
            for query, picture in zip(queries, expected, strict=True):
                for _ in range(USES):
                    close(answer(query, view), picture)

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(push), threads.submit(render)]:
            done.result()
    assert write.captured.num_recorded == answer.captured.num_recorded == 1


@torch.inference_mode()
def test_a_form_used_by_one_thread_can_be_recorded_by_another() -> None:
    model = gpu_model(bank=tiny().bank)
    view, answer = model.freeze(seen_by(model)[0], torch.bfloat16), CapturedQuery(model)
    query = Query(orbit(1, 1, SIZE, SIZE).to("cuda"))
    for _ in range(EAGER_USES):
        expected = answer(query, view)
    with ThreadPoolExecutor(1) as threads:
        close(threads.submit(answer, query, view).result(), expected)
    assert answer.captured.num_recorded == 1


@torch.inference_mode()
def test_a_query_that_waits_for_the_device_is_answered_plainly(caplog) -> None:
    model = gpu_model()
    view = model.freeze(seen_by(model)[0], torch.bfloat16)
    plain = model._decode

    def waiting(*asked):
        outs = plain(*asked)
        assert outs.rgb.isfinite().all()
        return outs

    model._decode = waiting
    answer, query = answering(model), Query(orbit(1, 1, SIZE, SIZE).to("cuda"))
    for _ in range(USES):
        close(answer(query, view), model.query(query, view))
    (said,) = [record for record in caplog.records if record.name == "everview.models"]
    assert "can't be captured" in said.getMessage()


def test_a_bank_that_grows_and_lets_go_leaves_writes_one_form() -> None:
    model = gpu_model(stack="WTFT", bank=replace(tiny().bank, capacity=2))
    write = CapturedWrite(model)
    seen_by(model, chunks=USES, write=write)
    assert write.captured.num_recorded == 1
