"""The ablation of policies: its loops close, and its rows are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from everview.models.config import tiny
from everview.models.scene_model import SceneModel
from everview.pipeline.benchmarks.policies import ablation
from everview.pipeline.benchmarks.policies.ablation import (
    BASE,
    COLUMNS,
    POLICIES,
    run_ablation,
    table_rows,
)
from everview.pipeline.benchmarks.policies.loops import Loop
from everview.pipeline.streaming.policies import StreamPolicies

LOOP = Loop(seed=3, dynamic=False, laps=2, lap_frames=16, size=16)


def test_every_lap_comes_back_to_where_it_began_and_no_picture_comes_twice() -> None:
    frames = LOOP.written()
    eyes = np.stack([frame.camera.c2w_cv[:3, 3] for frame in frames])
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=-1)
    assert np.linalg.norm(eyes[16] - eyes[0]) < steps.max()
    assert np.linalg.norm(eyes[-1] - eyes[0]) < 2 * steps.max()
    assert np.linalg.norm(eyes[8] - eyes[0]) > 3 * steps.max()
    seen = [*frames, *LOOP.held_out(0, 8)]
    assert len({frame.image.tobytes() for frame in seen}) == len(seen)
    assert [frame.time_s for frame in LOOP.held_out(8, 4)] == pytest.approx([0.85, 1.05])


def test_every_policy_of_the_table_is_one_that_a_stream_can_follow() -> None:
    made = [StreamPolicies(**chosen) for chosen in POLICIES.values()]
    assert len(set(made)) == len(made)
    assert made[0] == StreamPolicies()


def test_rows_are_written_as_they_come_and_not_measured_again(tmp_path, monkeypatch) -> None:
    torch.manual_seed(0)
    model = SceneModel(tiny()).eval().requires_grad_(False)
    out, said = tmp_path / "rows.json", []
    report = run_ablation(model, "random", [LOOP], out, said.append, "step 0.3")
    assert [row["policy"] for row in report["rows"]] == [BASE, "step 0.3"]
    assert [row["chunks"] for row in report["rows"]] == [4, 4]
    assert json.loads(out.read_text())["rows"] == report["rows"]
    assert len(said) == 2
    base, other = table_rows(report)
    assert len(base) == len(other) == len(COLUMNS)
    assert not base[1].startswith(("+", "-"))
    assert other[1].startswith(("+", "-"))
    monkeypatch.setattr(ablation, "stream_walk", None)
    again = run_ablation(model, "random", [LOOP], out, said.append, "step 0.3")
    assert again["rows"] == report["rows"]
