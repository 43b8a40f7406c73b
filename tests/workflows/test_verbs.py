"""Every verb from its command line to its run directory, with a small untrained model.

Real: the program, the capture, the model's code, the run directories. Untrained: the weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from everview.models.config import tiny
from everview.models.scene_model import SceneModel
from everview.models.weight_files import save_weights
from everview.workflows.cli.main import main

CAPTURE = "procedural://tabletop?seed=3&frames=12&size=32&dynamic=true"


def everview(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line, run in this process."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main(words)
    told = capfd.readouterr()
    assert isinstance(leaving.value.code, int)
    return leaving.value.code, told.out, told.err


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained tiny model, saved as weights are."""
    folder = tmp_path_factory.mktemp("weights") / "untrained"
    torch.manual_seed(0)
    save_weights(SceneModel(tiny()), folder, "An untrained model for tests.")
    return str(folder)


@pytest.fixture(scope="module")
def streamed(weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `stream`."""
    run = tmp_path_factory.mktemp("runs") / "stream"
    words = ["stream", CAPTURE, "--weights", weights, "--size", "32", "--out", str(run), "--quiet"]
    with pytest.raises(SystemExit) as leaving:
        main([*words, "--policies.chunk-frames", "4", "--video-frames", "4", "--review-views", "1"])
    assert leaving.value.code == 0
    return run


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def test_stream_leaves_a_run_that_says_how_it_was_made(streamed: Path) -> None:
    record = read(streamed / "run.json")
    assert (record["status"], record["exit_status"], record["verb"]) == ("done", 0, "stream")
    assert record["config"]["capture"] == CAPTURE
    assert record["config"]["policies"]["chunk_frames"] == 4
    for name in ("metrics.json", "frames.parquet", "novel_views.mp4", "report.html", "snapshot"):
        assert (streamed / name).exists(), name


def test_a_finished_run_is_refused_without_fresh(
    streamed: Path, weights: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = everview(
        capfd, "stream", CAPTURE, "--weights", weights, "--size", "32", "--out", str(streamed)
    )
    assert (code, out) == (2, "")
    assert "--fresh" in err
    assert "Traceback" not in err


def test_render_draws_a_path_through_the_scene(
    streamed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "orbit"
    words = ("--path", "orbit", "--frames", "3", "--stills", "2", "--out", str(out))
    code, said, _ = everview(capfd, "render", str(streamed), *words)
    assert (code, said.splitlines()[-1]) == (0, str(out))
    assert (out / "novel_views.mp4").stat().st_size > 0
    assert len(list((out / "views").glob("*.png"))) >= 2


def test_render_of_what_is_no_stream_is_exit_3(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = everview(capfd, "render", str(tmp_path))
    assert (code, out) == (3, "")
    assert str(tmp_path) in err


def test_report_writes_the_page_again_where_it_is_told(
    streamed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    code, out, _ = everview(capfd, "report", str(streamed), "--out", str(page), "--json")
    assert code == 0
    assert json.loads(out)["report"] == str(page)
    assert page.read_text().lstrip().lower().startswith("<!doctype html")


def test_evaluate_prints_the_floors_beside_the_model(
    weights: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--capture", CAPTURE, "--inputs", "4", "--size", "32", "--weights", weights)
    code, out, _ = everview(capfd, "evaluate", *words, "--out", str(tmp_path / "run"))
    assert code == 0
    for row in ("mean colour", "nearest"):
        assert row in out
    metrics = read(tmp_path / "run" / "metrics.json")
    assert metrics["floors"]["mean_colour"]["psnr"] > 0
    assert metrics["psnr"] is not None


def test_weights_that_are_not_there_are_exit_3(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = everview(capfd, "stream", CAPTURE, "--weights", "smalll")
    assert (code, out) == (3, "")
    assert "smalll" in err


def test_a_recipe_trains_to_weights_and_metrics(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two steps of the smallest recipe: a run directory, weights that load, the loss in metrics."""
    words = ["--budget.steps", "2", "--budget.seconds", "None", "--data.pool-scenes", "8"]
    words += ["--evaluation.scenes", "1", "--out", str(tmp_path / "run"), "--json"]
    code, out, err = everview(capfd, "train", "tiny", *words)
    assert code == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["step"] == 2
    assert metrics["loss"] > 0
    assert (tmp_path / "run" / "weights" / "tiny" / "card.md").exists()
