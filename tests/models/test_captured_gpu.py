"""Captured queries and writes on a GPU: the same pictures and states as without capture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.captured import EAGER_USES, CapturedQuery, CapturedWrite, answering
from everview.models.config import tiny
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


def gpu_model(**changes) -> SceneModel:
    return scene_model(dim=128, attention_head_dim=64, **changes).cuda().requires_grad_(False)


@torch.no_grad()
def seen_by(model: SceneModel, seed: int = 0, write=None, chunks: int = 1) -> list[SceneState]:
    """The states after each of `chunks` chunks of two views, under the arithmetic of training."""
    seen = episode((2,) * chunks, batch=1, size=(SIZE, SIZE), seed=seed)
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


@pytest.mark.parametrize("bank", [None, tiny().bank], ids=["memory alone", "with bank"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@torch.inference_mode()
def test_pictures_are_those_of_plain_queries_after_a_swap_too(bank, compiled) -> None:
    model = gpu_model(bank=bank)
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


@pytest.mark.parametrize("writes", [("w1",), ("w0", "w1", "w2")], ids="+".join)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_stream_of_captured_writes_leaves_the_states_of_plain_ones(writes, compiled) -> None:
    model = gpu_model(memory_writes=writes, memory_optimiser="sgd")
    plain = seen_by(model, chunks=USES)
    if compiled:
        model.compile_blocks(dynamic=False)
    write = CapturedWrite(model)
    captured = seen_by(model, chunks=USES, write=write)
    assert write.captured.num_recorded == 1
    for one, other in zip(captured, plain, strict=True):
        close(one.layers, other.layers)
        close(one.clock, other.clock)


@torch.inference_mode()
def test_a_query_that_waits_for_the_device_is_answered_plainly(caplog) -> None:
    model = gpu_model()
    view = model.freeze(seen_by(model)[0], torch.bfloat16)
    plain = model._select

    def waiting(outs, heads, gauge):
        assert outs.rgb.isfinite().all()
        return plain(outs, heads, gauge)

    model._select = waiting
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
