"""The walk's command: rows with and without segments, of the same judged views, on record."""

import json

import pytest
import torch

from everview.models.config import BankConfig, ModelConfig
from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights
from everview.pipeline.benchmarks.walk import main


def test_a_walk_out_and_back_is_on_record_with_and_without_segments(tmp_path, capsys):
    torch.manual_seed(7)
    bank = BankConfig(capacity=6, hypotheses=4, features=8, groups=2, refine_channels=8)
    config = ModelConfig(stack="WTF", dim=32, attention_head_dim=32, bank=bank)
    model = SceneModel(config).eval().requires_grad_(False)
    weights = save_weights(model, tmp_path / "random", "random", bits=32)
    out = tmp_path / "walk.json"
    words = f"--frames 32 --size 16 --chunk 4 --reach 0 1 --device cpu --weights {weights} --out"
    assert main([*words.split(), str(out)]) == 0
    told = json.loads(out.read_text())
    alone, several = told["rows"]
    assert (alone["reach"], alone["segments"]) == (0.0, 1)
    assert several["reach"] == 1.0
    assert several["segments"] > 1
    assert alone["first_back"]["picture_db"] != several["first_back"]["picture_db"]
    for row in (alone, several):
        lost = row["first_live"]["picture_db"] - row["first_back"]["picture_db"]
        assert row["lost_db"] == pytest.approx(lost)
    assert told["path_out_m"] == pytest.approx(4.8)
    assert told["versions"]["torch"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in printed[2:]] == ["| 0", "| 1"]
