"""`evaluate` end to end: a real capture on disk, a small untrained model, a real run directory."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from everview.datasets.errors import DataError
from everview.datasets.shards import write_shards
from everview.pipeline.errors import UsageError
from everview.pipeline.evaluation import run as evaluation_run
from everview.pipeline.evaluation.config import EvaluationConfig
from everview.pipeline.evaluation.floors import mean_colour
from everview.pipeline.evaluation.image_metrics import psnr
from everview.pipeline.evaluation.run import evaluate
from everview.pipeline.runs import METRIC_KEYS, read_frames, read_run
from tests.datasets.shards.posed import scene
from tests.pipeline.evaluation.conftest import FolderProtocol, FolderScene


def test_a_capture_leaves_scores_floors_rows_and_pictures(room, model, tmp_path):
    config = EvaluationConfig(capture=str(room), size=32, pictures=2)
    result = evaluate(config, tmp_path / "run", model=model)
    metrics = json.loads((result.run / "metrics.json").read_text())
    assert result.exit_code == 0
    assert set(METRIC_KEYS) <= set(metrics)
    assert metrics["floors"]["depth_warp"]["psnr"] > metrics["floors"]["mean_colour"]["psnr"]
    assert metrics["memory_alone"]["psnr"] is not None
    assert metrics["lpips_alex"] is None
    assert "no network in tests" in metrics["missing"]["lpips_alex"]
    assert metrics["depth_alignment"] == "metric"
    assert metrics["details"]["num_images"] == 3
    assert metrics["results"]["psnr"] == metrics["psnr"]
    rows = read_frames(result.run)
    assert [row["id"] for row in rows if row["role"] == "held_out"] == [0, 8, 16]
    assert [row["chunk"] for row in rows if row["role"] == "input"] == [0] * 8 + [1] * 6
    held_out = [row["psnr"] for row in rows if row["role"] == "held_out"]
    assert metrics["psnr"] == pytest.approx(np.mean(held_out))
    record = read_run(result.run)
    assert record["status"] == "done"
    assert record["gauge"]["room"]["rule"]
    assert record["input"][0]["identity"]
    assert sorted(p.name for p in (result.run / "views").glob("00000_*")) == [
        "00000_error.png", "00000_memory.png", "00000_nearest.png", "00000_rendered.png",
        "00000_truth.png",
    ]  # fmt: skip
    assert len(list((result.run / "views").glob("*_truth.png"))) == 2
    assert (result.run / "report.html").stat().st_size > 10_000
    for label in ("model", "memory alone", "mean colour", "nearest input", "true depth"):
        assert label in result.table


def test_the_scores_are_those_of_the_pictures_that_are_left(room, model, tmp_path):
    config = EvaluationConfig(capture=str(room), size=32, pictures=99)
    result = evaluate(config, tmp_path / "run", model=model)
    for row in read_frames(result.run):
        if row["role"] == "held_out":
            pair = [
                np.array(Image.open(result.run / "views" / f"{row['id']:05d}_{kind}.png"))
                for kind in ("rendered", "truth")
            ]
            error = np.mean(((pair[0].astype(float) - pair[1]) / 255) ** 2)
            assert row["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-4)


def test_spread_inputs_are_one_set_and_the_gap_to_causal_is_measured(room, model, tmp_path):
    config = EvaluationConfig(capture=str(room), inputs=8, size=32, chunks=(1, 4), pictures=0)
    result = evaluate(config, tmp_path / "run", model=model)
    scene = result.metrics["scenes"][0]
    assert scene["chunk_sizes"] == [8]
    assert scene["num_targets"] == 9
    gaps = {gap["chunks"]: gap for gap in result.metrics["details"]["gaps"]}
    assert gaps[1]["gap_db"] == 0
    assert gaps[4]["gap_db"] == pytest.approx(gaps[1]["psnr"] - gaps[4]["psnr"])
    assert "chunk_causal" in result.table
    assert not (result.run / "views").exists()


def test_a_scene_that_fails_is_named_and_judged_again_by_the_same_command(
    room, model, tmp_path, monkeypatch
):
    late = tmp_path / "late"
    scenes = (FolderScene(str(late), "late"), FolderScene(str(room), "room"))
    protocols = {"procedural": lambda count, size: FolderProtocol(scenes)}
    monkeypatch.setattr(evaluation_run, "PROTOCOLS", protocols)
    config = EvaluationConfig(protocol="procedural", scenes=2, size=32)
    result = evaluate(config, tmp_path / "run", model=model)
    assert result.exit_code == 1
    assert list(result.failed) == ["late"]
    assert "late" in result.metrics["scenes"][1]["error"]
    assert result.metrics["details"]["num_scenes"] == 1
    assert "failed" in result.table
    assert read_run(result.run)["status"] == "failed"
    kept = (result.run / "scenes" / "room.json").stat().st_mtime_ns

    room.rename(late)
    again = evaluate(config, tmp_path / "run", model=model)
    assert again.exit_code == 0
    assert again.metrics["details"]["num_scenes"] == 2
    assert (again.run / "scenes" / "room.json").stat().st_mtime_ns == kept
    assert read_run(again.run)["status"] == "done"


def test_every_scene_of_a_set_of_shards_is_judged_by_itself(model, tmp_path):
    scenes = [
        scene("cup", views=9, height=48, width=48),
        scene("jar", views=9, height=48, width=48),
    ]
    write_shards(tmp_path / "set", scenes)
    config = EvaluationConfig(shards=str(tmp_path / "set"), inputs=4, size=32)
    result = evaluate(config, tmp_path / "run", model=model)
    judged = {one["name"]: one for one in result.metrics["scenes"]}
    assert list(judged) == ["cup", "jar"]
    assert all(one["num_targets"] == 5 for one in judged.values())
    assert result.metrics["details"]["num_images"] == 10
    assert (result.run / "scenes/cup.json").exists()


def test_when_every_scene_fails_so_does_the_run(model, tmp_path, monkeypatch):
    scenes = tuple(FolderScene(str(tmp_path / name), name) for name in "ab")
    protocols = {"procedural": lambda count, size: FolderProtocol(scenes)}
    monkeypatch.setattr(evaluation_run, "PROTOCOLS", protocols)
    config = EvaluationConfig(protocol="procedural", scenes=2, size=32)
    with pytest.raises(DataError, match="no scene could be judged: a: "):
        evaluate(config, tmp_path / "run", model=model)
    assert read_run(tmp_path / "run")["exit_status"] == 3


def test_a_capture_without_cameras_is_refused_in_one_sentence(model, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        Image.new("RGB", (40, 40), (index, 0, 0)).save(folder / f"{index}.png")
    with pytest.raises(DataError, match="no cameras"):
        evaluate(EvaluationConfig(capture=str(folder), size=32), tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()


def test_more_inputs_than_frames_are_a_usage_error(room, model, tmp_path):
    config = EvaluationConfig(capture=str(room), inputs=17, size=32)
    with pytest.raises(UsageError, match=r"choose 1 to 16"):
        evaluate(config, tmp_path / "run", model=model)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "--capture"),
        ({"capture": "a", "protocol": "procedural"}, "one of"),
        ({"capture": "a", "shards": "b"}, "one of"),
        ({"protocol": "imagenet"}, "procedural"),
        ({"capture": "a", "size": 100}, "multiple of 8"),
        ({"capture": "a", "inputs": 0}, "--inputs"),
        ({"capture": "a", "chunks": (0,)}, "--chunks"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(fields, word):
    with pytest.raises(UsageError, match=word):
        EvaluationConfig(**fields)


def test_a_mean_colour_floor_scores_what_its_definition_says(room, model, tmp_path):
    """The floor in the table, computed a second way from the files on disk."""
    config = EvaluationConfig(capture=str(room), size=40, pictures=0)
    result = evaluate(config, tmp_path / "run", model=model)
    import torch

    pictures = [np.array(Image.open(room / f"{i:05d}.png")) for i in range(17)]
    colour = mean_colour([p for i, p in enumerate(pictures) if i % 8])
    truth = torch.from_numpy(np.stack(pictures[::8])).permute(0, 3, 1, 2) / 255
    flat = torch.from_numpy(colour / 255).view(1, 3, 1, 1).expand_as(truth)
    expected = psnr(flat, truth).mean().item()
    assert result.metrics["floors"]["mean_colour"]["psnr"] == pytest.approx(expected, abs=1e-3)
