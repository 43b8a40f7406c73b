"""Which blocks a shallower model misses least: all are tried, one goes a round."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights
from everview.workflows.campaign import drop_blocks
from everview.workflows.recipes.first_light import tiny
from everview.workflows.recipes.published import base


@pytest.fixture
def small_judges(monkeypatch):
    """Scenes of one world at 32 px instead of the eight of `base`."""
    data = tiny().data
    monkeypatch.setattr(drop_blocks, "find_recipe", lambda _: lambda: replace(base(), data=data))


@torch.no_grad()
def test_every_block_is_left_out_in_turn_and_the_one_that_costs_least_goes(
    tmp_path, small_judges
) -> None:
    torch.manual_seed(0)
    model = SceneModel(replace(tiny().model, stack="WTFWTFWTF"))
    for layer in model.layers[3:6]:
        for name, value in layer.named_parameters():
            value.mul_(0.0 if name in ("out.weight", "contract.weight") else 1.0)
    weights = save_weights(model, tmp_path / "w", "", bits=32)
    out = tmp_path / "dropped.json"
    given = ["--weights", str(weights), "--keep", "1", "--scenes", "1", "--out", str(out)]
    assert drop_blocks.main(given) == 0
    report = json.loads(out.read_text())
    first, second = report["rounds"]
    assert set(first["candidates"]) == {"0", "1", "2"}
    # leaving it out costs nothing, so no other choice can be compared with more than that
    assert first["candidates"]["1"] == pytest.approx(report["whole"], abs=1e-4)
    assert first["psnr"] == max(first["candidates"].values())
    assert len(report["layers"]) == 3
    assert second["psnr"] == max(second["candidates"].values())


@pytest.mark.parametrize("keep", ["0", "2", "9"])
def test_as_many_blocks_as_there_are_or_none_are_refused_at_once(keep, tmp_path, capsys) -> None:
    weights = save_weights(SceneModel(tiny().model), tmp_path / "w", "", bits=32)
    out = tmp_path / "dropped.json"
    with pytest.raises(SystemExit):
        drop_blocks.main(["--weights", str(weights), "--keep", keep, "--out", str(out)])
    assert f"--keep {keep}: 1 to 1 of the 2 blocks" in capsys.readouterr().err
    assert not out.exists()


@torch.no_grad()
def test_a_block_may_be_half_of_what_the_stack_repeats(tmp_path, small_judges) -> None:
    torch.manual_seed(0)
    model = SceneModel(replace(tiny().model, stack="WTFWSF" * 2))
    weights = save_weights(model, tmp_path / "w", "", bits=32)
    out = tmp_path / "dropped.json"
    given = ["--weights", str(weights), "--length", "3", "--keep", "3", "--out", str(out)]
    assert drop_blocks.main(given) == 0
    report = json.loads(out.read_text())
    (dropped,) = report["rounds"]
    assert set(dropped["candidates"]) == {"0", "1", "2", "3"}
    assert report["layers"] == [n for n in range(12) if n // 3 != dropped["block"]]


def test_a_length_that_does_not_divide_the_stack_is_refused(tmp_path, capsys) -> None:
    weights = save_weights(SceneModel(tiny().model), tmp_path / "w", "", bits=32)
    given = ["--weights", str(weights), "--keep", "1", "--out", str(tmp_path / "dropped.json")]
    for length in ("0", "4"):
        with pytest.raises(SystemExit):
            drop_blocks.main([*given, "--length", length])
        assert f"--length {length}: it has to divide" in capsys.readouterr().err
