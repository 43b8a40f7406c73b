"""Elastic commits against the paper's equations, written out for each sample and matrix."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.kernels.fast_weight import fast_weight_commit
from everview.models.elastic import (
    Elastic,
    ElasticWeightConsolidation,
    FixedAnchor,
    MemoryAwareSynapses,
    StreamingAnchor,
    StreamingEmaAnchor,
    SynapticIntelligence,
)
from everview.models.state import named_tensors
from tests.models.scenes import episode, scene_model, streamed

ALPHA, BETA, LAMBDA = 0.3, 0.7, 5.0
IMPORTANCES = [MemoryAwareSynapses(), ElasticWeightConsolidation(), SynapticIntelligence()]
ANCHORS = [FixedAnchor(), StreamingAnchor(), StreamingEmaAnchor(BETA)]


def name_of(policy) -> str:
    return type(policy).__name__


def importance_by_hand(policy, before: float, displaced: float, anchor: float) -> float:
    match policy:
        case MemoryAwareSynapses():
            return abs(displaced - before)
        case ElasticWeightConsolidation():
            return (displaced - before) ** 2
        case SynapticIntelligence():
            return abs((displaced - before) * (displaced - anchor))
    raise AssertionError(policy)


def commits_by_hand(weight, directions, step: float, norm, importance, anchor) -> torch.Tensor:
    """One matrix [I, O] of one sample, entry by entry: FSM, arXiv 2604.07350, section 3."""
    rows, columns = weight.shape
    w = [[float(weight[i, j]) for j in range(columns)] for i in range(rows)]
    star = [row[:] for row in w]
    f = [[1e-6] * columns for _ in range(rows)]
    for direction in directions:
        new = [row[:] for row in w]
        for i in range(rows):
            for j in range(columns):
                displaced = w[i][j] + step * float(direction[i, j])
                score = importance_by_hand(importance, w[i][j], displaced, star[i][j])
                f[i][j] = ALPHA * f[i][j] + (1 - ALPHA) * score
                new[i][j] = displaced - LAMBDA * f[i][j] * (displaced - star[i][j])
        for j in range(columns):
            length = sum(new[i][j] ** 2 for i in range(rows)) ** 0.5
            for i in range(rows):
                w[i][j] = new[i][j] * float(norm[0, j]) / (length + 1e-5)
                if isinstance(anchor, StreamingAnchor):
                    star[i][j] = w[i][j]
                elif isinstance(anchor, StreamingEmaAnchor):
                    star[i][j] = BETA * star[i][j] + (1 - BETA) * w[i][j]
    return torch.tensor(w, dtype=torch.float64)


@pytest.mark.parametrize("importance", IMPORTANCES, ids=name_of)
@pytest.mark.parametrize("anchor", ANCHORS, ids=name_of)
def test_commits_follow_the_equations_sample_by_sample(importance, anchor) -> None:
    torch.manual_seed(3)
    samples, chunks = 2, 3
    weights = torch.randn(samples, 2, 4, 3, dtype=torch.float64)
    directions = 0.4 * torch.randn(chunks, samples, 2, 4, 3, dtype=torch.float64)
    step = torch.tensor([1.0, 0.5]).double()
    columns = weights[:, 0].norm(dim=1, keepdim=True)  # of a w0; the other is a transposed w1
    rows = weights[:, 1].norm(dim=2, keepdim=True)
    elastic = Elastic(importance, anchor, pull=LAMBDA, decay=ALPHA)
    moved, state = weights, elastic.init_state(weights)
    for direction in directions:
        moved, state = elastic.commit(moved, direction, step, (columns, rows), state)
    for n in range(samples):
        pace = float(step[n])
        expected = commits_by_hand(
            weights[n, 0], directions[:, n, 0], pace, columns[n], importance, anchor
        )
        torch.testing.assert_close(moved[n, 0], expected, rtol=0, atol=1e-12)
        expected = commits_by_hand(
            weights[n, 1].mT, directions[:, n, 1].mT, pace, rows[n].mT, importance, anchor
        )
        torch.testing.assert_close(moved[n, 1].mT, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_without_pull_it_is_lact_bit_for_bit() -> None:
    seen = episode((2, 2, 1))
    plain = streamed(scene_model(memory_writes=("w0", "w1", "w2")), seen)
    elastic = scene_model(memory_writes=("w0", "w1", "w2"), elastic=Elastic(pull=0.0))
    free = streamed(elastic, seen)
    compared = 0
    for layer, expected in zip(free.layers, plain.layers, strict=True):
        if layer != ():
            assert layer.weights.shape[1] == 3
            assert torch.equal(layer.weights, expected.weights)
            compared += 1
    assert compared == 2


@torch.no_grad()
def test_within_one_chunk_all_anchors_coincide() -> None:
    seen = episode((3,))
    states = [streamed(scene_model(elastic=Elastic(anchor=a, pull=9.0)), seen) for a in ANCHORS]
    pulled = [s.layers[1].weights for s in states]
    assert torch.equal(pulled[0], pulled[1])
    assert torch.equal(pulled[0], pulled[2])
    assert not torch.equal(pulled[0], streamed(scene_model(), seen).layers[1].weights)


@torch.no_grad()
def test_importance_and_anchors_are_shared_by_neither_layers_nor_samples() -> None:
    model = scene_model(elastic=Elastic(pull=2.0)).double()
    seen = episode((1, 1), dtype=torch.float64)
    together = streamed(model, seen)
    for n in range(2):
        one = seen.inputs
        alone = replace(
            one,
            images=one.images[n : n + 1],
            cameras=one.cameras[n : n + 1],
            time_s=one.time_s[n : n + 1],
        )
        gauge = replace(
            seen.gauge,
            rotation=seen.gauge.rotation[n : n + 1],
            origin=seen.gauge.origin[n : n + 1],
            scale=seen.gauge.scale[n : n + 1],
        )
        single = dict(named_tensors(streamed(model, replace(seen, inputs=alone), gauge=gauge)))
        for name, tensor in named_tensors(together):
            if name.startswith(".layers"):
                torch.testing.assert_close(tensor[n], single[name][0], rtol=0, atol=1e-12)
    first, second = (layer.elastic for layer in together.layers if layer != ())
    assert not torch.equal(first.importance, second.importance)
    assert not torch.equal(first.anchor, second.anchor)


def test_importance_and_anchors_take_no_gradient() -> None:
    model = scene_model(elastic=Elastic())
    state = streamed(model, episode((2, 1)))
    kept = state.layers[1].elastic
    assert state.layers[1].weights.requires_grad
    assert not kept.importance.requires_grad
    assert not kept.anchor.requires_grad


def test_step_zero_changes_nothing_even_with_a_direction_that_is_not_finite() -> None:
    weights = torch.randn(2, 1, 4, 3)
    norms = (weights[:, 0].norm(dim=1, keepdim=True),)
    direction = torch.full_like(weights, torch.nan)
    elastic = Elastic()
    state = elastic.init_state(weights)
    moved, kept = elastic.commit(weights, direction, torch.zeros(2), norms, state)
    assert torch.equal(moved, weights)
    assert torch.equal(kept.anchor, state.anchor)
    assert torch.equal(kept.importance, state.importance)
    assert torch.equal(fast_weight_commit(weights, direction, torch.zeros(2), norms), weights)
