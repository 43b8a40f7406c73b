"""The whole-model benchmarks run: here small, on a CPU and without compilation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.config import ModelConfig, base312m
from everview.models.rays import pluecker
from everview.models.scene_model import SceneModel
from everview.pipeline.benchmarks import model_gpu, train
from everview.pipeline.benchmarks.model_gpu import Contest, Seen, Setting, bench_model_gpu
from everview.pipeline.benchmarks.operations import Operations
from everview.pipeline.benchmarks.products import Products
from everview.pipeline.benchmarks.published_model import PublishedModel
from everview.pipeline.benchmarks.results import WrongResult
from everview.pipeline.benchmarks.train import Case, bench_train, random_episode
from everview.pipeline.benchmarks.whole_rows import COLUMNS

SMALL = replace(base312m(), stack="WTF" * 2, dim=64, attention_head_dim=32)
CONTEST = Contest(SMALL, 32, reconstruct=((2, 1),), render=((1, 1), (3, 1)), rendered_from=2)
SETTING = Setting(torch.device("cpu"), rounds=1, compile_options=None)
CASE = Case("2 layers", SMALL, 2, 2, 1, 16, True, "some ms")


def test_inference_is_checked_and_measured_for_both() -> None:
    report = bench_model_gpu(SETTING, CONTEST)
    names = [row.what for row in report.rows]
    assert names == [
        "reconstruct 2", "reconstruct 2, published", "render 1", "render 1, published",
        "render 3", "render 3, published",
    ]  # fmt: skip
    assert all(row.ms > 0 and row.tflops > 0 and 0 < row.error < 0.5 for row in report.rows)
    assert all(len(row.cells()) == len(COLUMNS) for row in report.rows)
    assert report.rows[1].ratio_to_published == 1
    assert report.as_json()["rows"][0]["goal"] == "1 frames/s"
    assert "TFLOP/s" in report.circumstances()


def test_rows_are_chosen_by_the_beginning_of_their_names() -> None:
    report = bench_model_gpu(replace(SETTING, only="render 1"), CONTEST)
    assert [row.what for row in report.rows] == ["render 1", "render 1, published"]
    assert bench_train(replace(SETTING, only="other"), (CASE,)).rows == ()


def test_a_training_step_is_checked_and_measured_for_both() -> None:
    report = bench_train(SETTING, (CASE,))
    assert [row.what for row in report.rows] == ["train", "train, published, checkpoints"]
    assert all(row.ms > 0 and 0 < row.error < 0.3 for row in report.rows)
    assert report.notes == ()


def test_numbers_are_refused_for_wrong_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_gpu, "_PICTURE_LIMIT", 1e-9)
    with pytest.raises(WrongResult, match="render 1 is off"):
        bench_model_gpu(replace(SETTING, only="render"), CONTEST)
    monkeypatch.setattr(train, "_GRADIENT_LIMIT", 1e-9)
    with pytest.raises(WrongResult, match="train: the gradient is off"):
        bench_train(SETTING, (CASE,))


def test_both_sides_are_asked_for_the_same_and_have_the_same_size() -> None:
    config = replace(SMALL, dim=128)
    ours = SceneModel(config)
    published = model_gpu.published_twin(config, torch.device("cpu"))
    blocks = (published.attention, published.memory, published.feed_forward)
    theirs = sum(p.numel() for part in blocks for p in part.parameters())
    assert sum(p.numel() for p in ours.layers.parameters()) == pytest.approx(theirs, rel=0.02)


def test_operations_by_formula_are_those_of_the_published_products() -> None:
    """Beside what the formula leaves out: embedding, head, Newton-Schulz, keys of readers."""
    config: ModelConfig = replace(SMALL, dim=256, attention_head_dim=64)
    side = model_gpu.PublishedSide(config, SETTING)
    seen = Seen.random(2, 128, SETTING.device)
    with torch.no_grad():
        state = side.state(seen)
        rays = pluecker(seen.cameras)
        found = Products(lambda: side.plain.render(rays, state)).flops
    operations = Operations.of(config, 128)
    tokens = 2 * operations.tokens_per_view
    keys = tokens * operations.blocks * 4 * config.dim**2
    ends = tokens * 2 * config.dim * (12 + 3) * config.patch**2
    assert found == operations.render(2) + keys + ends


def test_checkpoints_change_no_gradient_of_the_published_model() -> None:
    torch.manual_seed(0)
    model = PublishedModel(blocks=2, dim=64, head_dim=32)
    episode = random_episode(CASE, 2, torch.device("cpu"))
    gradients = []
    for checkpoints in (False, True):
        model.checkpoints = checkpoints
        rays = torch.randn(2, 2, 9, 16, 16, generator=torch.Generator().manual_seed(1))
        weights = model.reconstruct(rays, episode.inputs.images)
        model.render(rays[:, :1], weights).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
def test_blocks_of_the_published_model_share_their_graphs() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model = PublishedModel(blocks=3, dim=64, head_dim=32).requires_grad_(False)
    model.compile_blocks(backend="eager", fullgraph=True, dynamic=False)
    rays = torch.randn(1, 2, 9, 16, 16)
    weights = model.reconstruct(rays, torch.rand(1, 2, 3, 16, 16))
    assert counters["stats"]["unique_graphs"] == 1
    model.render(rays, weights)
    assert counters["stats"]["unique_graphs"] == 2
    torch._dynamo.reset()
