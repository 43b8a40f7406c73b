"""The published formulation as a recipe: what it goes without, and that it learns on our data."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from everview.models.config import ModelConfig, config_from_dict, config_to_dict
from everview.models.scene_model import SceneModel
from everview.models.schedule import SET
from everview.pipeline.training.learning_rate import Budget
from everview.pipeline.training.loop import train
from everview.workflows.recipes.first_light import fine_sweep, first_light, tiny
from everview.workflows.recipes.lact import beside_lact, lact, lact_small
from tests.models.scenes import episode


def test_it_shares_the_data_and_the_time_of_first_light() -> None:
    ours, theirs = first_light(), lact()
    assert theirs.budget == ours.budget == Budget(seconds=1200)
    assert theirs.data.worlds == ours.data.worlds
    assert theirs.data.stored_share == ours.data.stored_share
    assert theirs.data.augmentation == ours.data.augmentation
    (one,), (other,) = theirs.data.shapes, ours.data.shapes
    assert replace(one, chunks=other.chunks) == other


def test_what_stands_beside_it_has_its_data_and_time_and_the_model_of_fine_sweep() -> None:
    ours, theirs = beside_lact(), lact()
    assert ours.budget == theirs.budget
    (one,), (other,) = ours.data.shapes, theirs.data.shapes
    assert replace(one, chunks=other.chunks) == other
    share = theirs.data.memory_share
    assert replace(ours.data, shapes=(other,), memory_share=share) == theirs.data
    assert ours.start_from is None
    assert ours.model == fine_sweep().model


def test_its_loss_is_the_picture_alone() -> None:
    for progress in (0.0, 0.5, 1.0):
        assert lact().loss.at(progress) == {"picture": 1.0}


def test_it_has_the_published_size_and_none_of_our_parts() -> None:
    with torch.device("meta"):
        wide, small = SceneModel(lact().model), SceneModel(lact_small().model)
    count = sum(parameter.numel() for parameter in wide.parameters())
    assert 30e6 < count < 36e6
    names = {name.split(".")[0] for name, _ in wide.named_parameters()}
    assert names == {"embed", "layers", "head"}
    assert not any(name.startswith("embed.foot") for name, _ in wide.named_parameters())
    assert small.config.dim == 256


@torch.no_grad()
def test_rays_without_a_foot_code_are_another_model_of_another_name() -> None:
    plain = ModelConfig(stack="WTF", dim=64, attention_head_dim=32, bank=None)
    other = replace(plain, foot_code=False)
    assert "foot_code" not in plain.identity
    assert other.identity != plain.identity
    assert config_from_dict(config_to_dict(other)) == other
    torch.manual_seed(0)
    model, seen = SceneModel(other).eval(), episode()
    assert model(seen, SET)[1].targets.rgb.isfinite().all()


def test_it_learns(tmp_path) -> None:
    small = replace(lact().model, stack="WTF", dim=64, attention_head_dim=32)
    config = replace(
        lact(),
        model=small,
        data=replace(tiny().data, memory_share=lact().data.memory_share),
        evaluation=tiny().evaluation,
        budget=Budget(steps=30),
        rate=replace(lact().rate, warm_up_steps=5),
        optimiser=replace(lact().optimiser, adamw_rate=2e-3),
        report_every=10,
        commit_every_s=1e9,
    )
    train(config, tmp_path / "run")

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["picture"] for line in lines if '"picture"' in line]
    assert losses[-1] < 0.8 * losses[0]
