"""What a rented card's command brings back, whatever its recipe measures."""

from __future__ import annotations

import json
import math
import os
import signal
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from everview.models.weight_files import load_model
from everview.pipeline.training.config import TrainConfig
from everview.workflows.campaign import gpu_session
from everview.workflows.recipes.first_light import tiny


def short(chunks: tuple[int, ...]) -> TrainConfig:
    """A recipe that a CPU goes through in seconds."""
    return replace(
        tiny(),
        evaluation=replace(tiny().evaluation, scenes=1, chunks=chunks),
        data=replace(tiny().data, pool_scenes=4, stored_scenes=4),
        device="cpu",
        report_every=1,
    )


@pytest.mark.parametrize("chunks", [(1,), (1, 4)], ids=["set alone", "streams too"])
def test_main_brings_back_weights_trunk_curve_and_pictures(tmp_path, monkeypatch, chunks) -> None:
    # a commit after every step, the first ones before cooling begins
    one = replace(short(chunks), commit_every_s=0.0)
    monkeypatch.setattr(gpu_session, "find_recipe", lambda _: lambda: one)
    out = tmp_path / "out"
    given = ["--plan", "main", "--steps", "4", "--out", str(out), "--run", str(tmp_path / "run")]
    assert gpu_session.main(given) == 0

    for name in ("weights", "trunk"):
        parts = sorted(out.glob(f"{name}.tar.*"))
        (tmp_path / name).write_bytes(b"".join(part.read_bytes() for part in parts))
        with tarfile.open(tmp_path / name) as archive:
            archive.extractall(tmp_path / "unpacked", filter="data")
        assert load_model(tmp_path / "unpacked" / name).config == one.model
    report = json.loads((out / "report.json").read_text())
    assert report["finished"]
    assert report["step"] == 4
    assert len((out / "metrics.jsonl").read_text().splitlines()) > 4
    assert Image.open(out / "samples.png").size[0] == 8 * 32  # three inputs, truth, two, two depths


@pytest.mark.parametrize("at_once", [1, 2])
def test_ablations_bring_back_a_row_and_a_curve_each_and_go_on_after_a_failure(
    tmp_path, monkeypatch, at_once
) -> None:
    one = short((1,))
    recipes = {
        "plain": replace(one, name="plain"),
        "lost": replace(one, name="lost", start_from=str(tmp_path / "nowhere")),
        "other": replace(one, name="other", seed=1),
    }
    monkeypatch.setattr(gpu_session, "find_recipe", lambda name: lambda: recipes[name])
    out = tmp_path / "out"
    out.mkdir()
    (out / "lost.jsonl").write_text("of an earlier command")
    given = ["--plan", "ablations", "--recipes", ",".join(recipes), "--steps", "2"]
    given += ["--at-once", str(at_once), "--out", str(out), "--run", str(tmp_path / "run")]
    assert gpu_session.main(given) == 0

    rows = {row["name"]: row for row in json.loads((out / "ablations.json").read_text())["rows"]}
    assert rows.keys() == recipes.keys()
    assert "nowhere" in rows["lost"]["error"]
    assert not (out / "lost.jsonl").exists()
    for name in ("plain", "other"):
        assert rows[name]["step"] == 2
        assert (out / f"{name}.jsonl").read_text().count("\n") >= 2
    if at_once > 1:
        assert "step 1 " in (out / "plain.log").read_text()


def first_killed(config: TrainConfig, folder: Path, out: Path) -> None:
    """The machine ends the first one, as it does when memory is short."""
    if config.name == "first":
        (folder / "metrics.jsonl").write_text("half of a curve\n")
        os.kill(os.getpid(), signal.SIGKILL)
    gpu_session.write_report(folder / gpu_session.ROW, {"name": config.name, "step": 2})


def test_an_ablation_whose_process_is_killed_has_a_row_and_takes_none_along(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(gpu_session, "logged_ablation", first_killed)
    configs = [replace(short((1,)), name=name) for name in ("first", "second", "third")]
    run, out = tmp_path / "run", tmp_path / "out"
    earlier = run / "first" / gpu_session.ROW
    for path in (earlier, out / "first.jsonl", out / "second.jsonl"):  # of an earlier command
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"name": "first", "step": 1}')
    gpu_session.ablations(configs, run, out, at_once=2)
    rows = json.loads((out / "ablations.json").read_text())["rows"]
    assert sorted(rows, key=lambda row: row["name"]) == [
        {"name": "first", "error": "its process ended with -9"},
        {"name": "second", "step": 2},
        {"name": "third", "step": 2},
    ]
    assert (out / "first.jsonl").read_text() == "half of a curve\n"
    assert not (out / "second.jsonl").exists()


def waits(config: TrainConfig, folder: Path, out: Path) -> None:
    """One that would go on for a minute."""
    (out / f"{config.name}.pid").write_text(str(os.getpid()))
    time.sleep(60)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_interrupted_they_all_end_and_none_begins(tmp_path, monkeypatch, number, raised) -> None:
    monkeypatch.setattr(gpu_session, "logged_ablation", waits)
    configs = [replace(short((1,)), name=name) for name in ("first", "second", "third")]

    def interrupt() -> None:
        for _ in range(1200):
            if sum(bool(path.read_text()) for path in tmp_path.glob("*.pid")) == 2:
                break
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    watching = threading.Thread(target=interrupt)
    watching.start()
    with pytest.raises(raised):
        gpu_session.ablations(configs, tmp_path / "run", tmp_path, at_once=2)
    watching.join()
    pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_loss_that_is_no_number_is_null_in_a_report(tmp_path) -> None:
    gpu_session.write_report(tmp_path / "report.json", {"loss": math.nan})
    assert json.loads((tmp_path / "report.json").read_text()) == {"loss": None}
