"""The letter T: its equations through the layer, its batched path, its heads, its norms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from everview.kernels.fast_weight import unpack
from everview.models.config import tiny
from everview.models.layers.fast_weight import FastWeightMemory
from everview.models.layers.plan import Plan
from everview.models.schedule import CHUNK_CAUSAL, SCHEDULES
from everview.models.steps import ConstantStep, InverseSqrtStep
from tests.models.scenes import episode, scene_model, streamed

EXACT = {"rtol": 0, "atol": 1e-12}


def memory(**changes) -> FastWeightMemory:
    """A memory of width 16, in float64, with read-outs large enough to be seen."""
    torch.manual_seed(1)
    config = replace(tiny(), dim=16, attention_head_dim=16, **changes)
    return FastWeightMemory(config).double()


def tokens(views: int = 4, batch: int = 2) -> torch.Tensor:
    """Tokens [B, V, T, C]."""
    return torch.randn(
        batch, views, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x.norm(dim=-1, keepdim=True) + 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("optimiser", ["muon", "sgd"])
def test_one_chunk_is_the_papers_update_and_apply(optimiser: str) -> None:
    """LaCT, arXiv 2505.23884, section 3, token by token, the gradient by autograd."""
    layer = memory(memory_writes=("w0", "w1", "w2"), memory_optimiser=optimiser)
    x = tokens(1, 1)
    plan = Plan.of(CHUNK_CAUSAL, (1,))
    out, _, state = layer.run(
        x, None, layer.init_state(1), plan, torch.full((1, 1), 0.5).double(), (1, 3)
    )
    q, k, v = functional.silu(layer.qkv(layer.norm(x[0, 0]))).chunk(3, -1)
    q, k = unit(q), unit(k)
    offset = math.log(math.expm1(0.01))
    rates = functional.softplus(layer.rates(layer.norm(x[0, 0])) + offset)
    names = ("w0", "w1", "w2")
    weights = {name: getattr(layer, name)[0].detach().clone() for name in names}

    def value(query, w):
        return (functional.silu(query @ w["w0"]) * (query @ w["w2"])) @ w["w1"]

    moved = {}
    for index, name in enumerate(names):
        with torch.enable_grad():
            leaf = weights[name].clone().requires_grad_()
            loss = -(value(k, weights | {name: leaf}) * v).sum(-1) @ rates[:, index]
            (gradient,) = torch.autograd.grad(loss, leaf)
        direction = -gradient
        if optimiser == "muon":
            direction = orthogonalised(direction)
        new = weights[name] + 0.5 * direction
        norm = weights[name].norm(dim=0, keepdim=True)
        moved[name] = new * norm / (new.norm(dim=0, keepdim=True) + 1e-5)
        torch.testing.assert_close(getattr(unpack(state.weights), name)[0], moved[name], **EXACT)
    read = value(q, moved)
    read = read * torch.rsqrt(read.square().mean(-1, keepdim=True) + 1e-5) * layer.read_norm.weight
    torch.testing.assert_close(out[0, 0], x[0, 0] + layer.out(read), **EXACT)


def orthogonalised(g: torch.Tensor) -> torch.Tensor:
    """Five quintic Newton-Schulz steps on the singular values alone."""
    u, s, vt = torch.linalg.svd(g / (g.norm() + 1e-7), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vt


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("chunks", [(2, 2), (1, 1, 1, 1), (1, 3)], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_directions_in_one_batch_equal_one_update_after_the_other(
    heads: int, chunks: tuple[int, ...], schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = memory(memory_heads=heads)
    x = tokens()
    plan = Plan.of(schedule, chunks)
    steps = torch.rand(2, plan.num_updates).double()

    def results():
        layer.zero_grad()
        out, asked, state = layer.run(x, x[:, :1], layer.init_state(2), plan, steps, (1, 3))
        (out.square().sum() + asked.square().sum()).backward()
        return out, asked, state.weights, [p.grad.clone() for p in layer.parameters()]

    batched = results()
    monkeypatch.setattr(FastWeightMemory, "_independent", lambda *_: 0)
    sequential = results()
    torch.testing.assert_close(batched, sequential, rtol=1e-11, atol=1e-12)


def test_heads_are_memories_of_their_own_channels() -> None:
    """Two heads are two one-head memories of half the width, side by side."""
    both = memory(memory_heads=2, memory_writes=("w0", "w1", "w2"))
    packet = both.project(tokens().flatten(1, 2))
    state = both.init_state(2)
    steps = torch.tensor([1.0, 0.3])
    moved = both.commit(both.accumulate(packet, state), state, steps)
    read = both.read(packet, moved)
    for head in range(2):
        rows = [head, head + 2]  # a head varies fastest
        single = memory(memory_heads=1, memory_writes=("w0", "w1", "w2"))
        single.heads = 1
        for name in ("w0", "w1", "w2"):
            single.register_parameter(
                name, torch.nn.Parameter(getattr(both, name)[head : head + 1].detach())
            )
        cut = type(packet)(*(part[rows] if part is not None else None for part in packet))
        own = single.init_state(2)
        alone = single.commit(single.accumulate(cut, own), own, steps)
        torch.testing.assert_close(moved.weights[rows], alone.weights, **EXACT)
        torch.testing.assert_close(read[rows], single.read(cut, alone), **EXACT)


def test_a_reader_alone_gets_the_queries_a_writer_alone_the_rest() -> None:
    layer = memory(memory_momentum=True)
    x = tokens().flatten(1, 2)
    everything, reads, writes = (
        layer.project(x),
        layer.project(x, writes=False),
        layer.project(x, reads=False),
    )
    torch.testing.assert_close(reads.queries, everything.queries, **EXACT)
    torch.testing.assert_close(writes.keys_values, everything.keys_values, **EXACT)
    torch.testing.assert_close(writes.rates, everything.rates, **EXACT)
    assert reads.keys_values is None
    assert reads.rates is None
    assert writes.queries is None


def test_what_a_chunk_writes_is_a_sum_over_its_tokens() -> None:
    layer = memory(memory_writes=("w0", "w1", "w2"))
    packet = layer.project(tokens().flatten(1, 2))
    state = layer.init_state(2)
    whole = layer.accumulate(packet, state)
    halves = [
        layer.accumulate(type(packet)(*(p if p is None else p[:, part] for p in packet)), state)
        for part in (slice(0, 5), slice(5, None))
    ]
    assert whole.is_sum
    torch.testing.assert_close(whole.sums, halves[0].sums + halves[1].sums, **EXACT)


@torch.no_grad()
def test_norms_are_the_learned_ones_after_a_thousand_commits() -> None:
    layer = memory()
    state = layer.init_state(1)
    generator = torch.Generator().manual_seed(5)
    for _ in range(1000):
        sums = torch.randn(state.weights.shape, generator=generator, dtype=torch.float64)
        state = layer.move(layer.direction(sums), state, torch.ones(1))
    norms = unpack(state.weights, ("w1",)).w1.norm(dim=-2) / layer.w1.norm(dim=-2)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-4)


@torch.no_grad()
def test_momentum_is_the_gated_sum_of_all_chunks() -> None:
    layer = memory(memory_momentum=True, memory_optimiser="sgd")
    state = layer.init_state(2)
    expected = torch.zeros_like(state.weights)
    for n in range(3):
        packet = layer.project(tokens()[:, n : n + 1].flatten(1, 2))
        delta = layer.accumulate(packet, state)
        assert delta.decay.shape == (2,)
        assert ((delta.decay > 0) & (delta.decay < 1)).all()
        expected = expected * delta.decay.view(2, 1, 1, 1) + delta.sums
        before = state.weights
        state = layer.commit(delta, state, torch.ones(2))
        torch.testing.assert_close(state.momentum, expected, **EXACT)
        moved = before + expected
        norm = layer.w1.norm(dim=-2)[:, None, :, None]
        moved = moved * norm / (moved.norm(dim=-1, keepdim=True) + 1e-5)
        torch.testing.assert_close(state.weights, moved, **EXACT)


def test_the_step_of_a_chunk_is_its_policys() -> None:
    counts = torch.arange(30)
    assert torch.equal(ConstantStep(0.5).steps(counts), torch.full((30,), 0.5))
    steps = InverseSqrtStep(floor=0.25).steps(counts)
    assert steps[:4].tolist() == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5])
    assert steps[16:].tolist() == [0.25] * 14


def test_equal_shares_of_the_state_come_from_inverse_square_root_steps() -> None:
    """Orthogonal writes of one size: after n of them, each holds the same part of the state."""
    size = 24
    writes = torch.eye(size, dtype=torch.float64)[1:]
    weight = torch.zeros(size, dtype=torch.float64)
    weight[0] = 1.0
    # the initial weight holds the first share, as if it were a write itself
    for write, step in zip(writes, InverseSqrtStep(0.0).steps(torch.arange(23)), strict=True):
        weight = weight + step * write
        weight = weight / weight.norm()
    torch.testing.assert_close(weight, torch.full_like(weight, size**-0.5), rtol=1e-5, atol=0)


def test_a_stream_computes_nothing_that_nobody_reads() -> None:
    """Neither layers after the last memory nor what its tokens would read."""
    model = scene_model(stack="WTFTWF")
    ran = []
    for name, layer in zip("WTFTWF", model.layers, strict=True):

        def spied(*args, name=name, original=layer.run):
            ran.append((name, any(op.kind == "apply" for op in args[3].operations)))
            return original(*args)

        layer.run = spied
    streamed(model, episode((1,)))
    assert ran == [("W", True), ("T", True), ("F", True), ("T", False)]
