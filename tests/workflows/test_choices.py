"""What published weights say of choices without training, on a capture of a second."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights
from everview.workflows.campaign import choices
from everview.workflows.campaign.choices import keeping
from everview.workflows.recipes.first_light import tiny

CAPTURE = "procedural://orbit?seed=3&frames=9&size=32"


@pytest.fixture
def given(tmp_path) -> list[str]:
    torch.manual_seed(0)
    weights = save_weights(SceneModel(tiny().model), tmp_path / "w", "", bits=32)
    where = ["--weights", str(weights), "--size", "32", "--out", str(tmp_path / "choices.json")]
    return [*where, "--captures", CAPTURE]


def test_rows_differ_where_the_choice_matters_and_only_there(given, tmp_path) -> None:
    assert choices.main(given) == 0
    rows = json.loads((tmp_path / "choices.json").read_text())["rows"]
    by_choice = {(row["kept"], row["step"], row["chunks"]): row for row in rows}
    trained = next(iter(choices.STEPS))
    seven = [by_choice[kept, trained, 1] for kept in (2, 4, 8, 64)]
    assert len({row["memory_alone"] for row in seven}) == 1  # a bank is no part of the memory
    assert seven[0]["psnr"] != seven[2]["psnr"]
    assert seven[2]["psnr"] == seven[3]["psnr"]  # all seven inputs are kept from 8 on
    assert by_choice[64, "1", 1]["psnr"] == by_choice[64, trained, 1]["psnr"]  # 1/sqrt(1)
    assert by_choice[64, "1", 4]["memory_alone"] != by_choice[64, trained, 4]["memory_alone"]


def test_the_same_command_measures_nothing_again(given, monkeypatch) -> None:
    assert choices.main(given) == 0
    monkeypatch.setattr(choices, "measured", None)
    assert choices.main(given) == 0


def test_rows_of_other_weights_or_another_size_are_no_part_of_a_file(given, capsys) -> None:
    assert choices.main(given) == 0
    with pytest.raises(SystemExit):
        choices.main([*given, "--size", "16"])
    assert "at 32 px" in capsys.readouterr().err


def test_weights_without_a_bank_keep_nothing() -> None:
    with pytest.raises(ValueError, match="no frame bank"):
        keeping(SceneModel(replace(tiny().model, bank=None)), 8)
