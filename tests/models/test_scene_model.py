"""The scene model as a whole: sizes, queries, gradients, precision, compilation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.config import BankConfig
from everview.models.elastic import Elastic
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL, SET
from tests.models.scenes import episode, scene_model, streamed

BANK = BankConfig(hypotheses=8, features=8, groups=4, refine_channels=8)


def loss_of(model: SceneModel, seen, schedule=CHUNK_CAUSAL) -> torch.Tensor:
    """Every output of an episode in one number."""
    _, outs = model(seen, schedule)
    parts = [outs.targets.rgb, outs.targets.log_depth, outs.targets.log_scale]
    parts += [outs.targets.direct_rgb, outs.inputs.rgb, outs.inputs.log_depth]
    return sum((n + 1) * part.square().mean() for n, part in enumerate(parts))


def masked_episode(**changes):
    """Some targets from the memory alone, some times unknown: every parameter has work to do."""
    seen = episode(**changes)
    times = seen.inputs.time_s.clone()
    times[0] = torch.nan
    mask = torch.tensor([[True, False]]).expand(2, 2)
    return replace(seen, inputs=replace(seen.inputs, time_s=times), bank_mask=mask)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("writes", [("w1",), ("w0", "w1", "w2")], ids=len)
def test_every_parameter_gets_a_finite_gradient(autocast: bool, writes: tuple[str, ...]) -> None:
    model = scene_model(
        bank=BANK, elastic=Elastic(), memory_momentum=len(writes) == 3, memory_writes=writes
    ).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = loss_of(model, masked_episode(chunks=(2, 1)))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_under_autocast_what_is_kept_stays_float32() -> None:
    model = scene_model(bank=BANK)
    with torch.autocast("cpu", torch.bfloat16):
        state, outs = model(episode(), CHUNK_CAUSAL)
    for layer in state.layers:
        if layer != ():
            assert layer.weights.dtype == torch.float32
    for picture in (outs.targets.rgb, outs.targets.log_depth, outs.targets.log_scale):
        assert picture.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (24, 16), (16, 40)], ids=str)
def test_other_image_sizes_than_in_training_are_answered(size: tuple[int, int]) -> None:
    model = scene_model(bank=BANK)
    seen = episode(size=size)
    view = model.freeze(streamed(model, seen))
    outs = model.query(Query(seen.targets.cameras), view, ("rgb", "depth", "confidence"))
    assert outs.rgb.shape == (2, 2, 3, *size)
    assert outs.depth.shape == outs.confidence.shape == (2, 2, *size)
    larger = model.query(Query(seen.targets.cameras.resized(32, 48)), view)
    assert larger.rgb.shape == (2, 2, 3, 48, 32)


@torch.no_grad()
def test_answers_are_in_their_ranges_and_only_what_was_asked() -> None:
    model = scene_model(bank=BANK)
    seen = episode()
    view = model.freeze(streamed(model, seen))
    outs = model.query(Query(seen.targets.cameras), view, ("rgb", "confidence"))
    assert outs.depth is None
    assert outs.memory_rgb is None
    assert outs.rgb.min() >= 0
    assert outs.rgb.max() <= 1
    assert outs.confidence.min() > 0
    assert outs.confidence.max() <= 1
    assert model.query(Query(seen.targets.cameras), view, ("depth",)).depth.min() > 0
    with pytest.raises(ValueError, match="no head 'normals'; known: rgb"):
        model.query(Query(seen.targets.cameras), view, ("normals",))
    with pytest.raises(ValueError, match="a query without a camera"):
        model.query(Query(images=seen.targets.images), view)


@torch.no_grad()
def test_the_memorys_own_picture_is_that_of_a_query_without_the_bank() -> None:
    model = scene_model(bank=BANK)
    seen = episode()
    view = model.freeze(streamed(model, seen))
    asked = Query(seen.targets.cameras)
    both = model.query(asked, view, ("rgb", "memory_rgb"))
    pure = model.query(asked, view, ("rgb",), bank=False)
    assert torch.equal(both.memory_rgb, pure.rgb)
    assert not torch.equal(both.rgb, pure.rgb)
    unmasked, masked = masked_episode(), masked_episode()
    unmasked = replace(unmasked, bank_mask=None)
    masked = replace(masked, bank_mask=torch.zeros(2, 2, dtype=torch.bool))
    alone = model(masked, CHUNK_CAUSAL)[1].targets
    assert torch.equal(alone.rgb, alone.direct_rgb)
    assert not torch.equal(model(unmasked, CHUNK_CAUSAL)[1].targets.rgb, alone.rgb)


@torch.no_grad()
def test_a_model_without_a_bank_keeps_no_frames() -> None:
    model = scene_model(bank=replace(BANK, capacity=0))
    seen = episode()
    state = streamed(model, seen)
    assert state.bank is None
    assert torch.equal(
        model.render(seen.targets.cameras, state).rgb,
        model.query(Query(seen.targets.cameras), model.freeze(state), bank=False).rgb,
    )


@torch.no_grad()
def test_what_was_seen_changes_what_is_shown() -> None:
    model = scene_model()
    seen, other = episode(seed=1), episode(seed=1)
    other = replace(other, inputs=replace(other.inputs, images=1 - other.inputs.images))
    shown = model.render(seen.targets.cameras, streamed(model, seen))
    assert not torch.equal(
        model.render(seen.targets.cameras, streamed(model, other)).rgb, shown.rgb
    )


def test_the_fingerprint_names_weights_and_configuration() -> None:
    model, twin = scene_model(3), scene_model(3)
    assert model.fingerprint == twin.fingerprint
    assert scene_model(4).fingerprint != model.fingerprint
    assert scene_model(3, memory_momentum=False, base_rate=0.02).fingerprint != model.fingerprint
    with torch.no_grad():
        twin.layers[0].norm.weight[0] += 1e-6
    assert twin.fingerprint != model.fingerprint


@pytest.mark.slow
def test_layers_compile_without_breaks_to_one_graph_a_letter_and_plan() -> None:
    from torch._dynamo.utils import counters

    plain, compiled = scene_model(stack="FTFT"), scene_model(stack="FTFT")
    torch._dynamo.reset()
    counters.clear()
    compiled.compile_blocks(backend="eager", fullgraph=True, dynamic=False)
    graphs = []
    for schedule, chunks in ((SET, (1, 1)), (CHUNK_CAUSAL, (2,)), (CHUNK_CAUSAL, (1, 1))):
        seen = masked_episode(chunks=chunks)
        expected, loss = loss_of(plain, seen, schedule), loss_of(compiled, seen, schedule)
        torch.testing.assert_close(loss, expected)
        expected.backward()
        loss.backward()
        graphs.append(counters["stats"]["unique_graphs"])
    for left, right in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-3, atol=1e-5)
    torch._dynamo.reset()
    assert not counters["graph_break"]
    # one more plan is one more graph, which both memories share; a set and one chunk are one plan
    assert graphs == [graphs[0], graphs[0], graphs[0] + 1]
