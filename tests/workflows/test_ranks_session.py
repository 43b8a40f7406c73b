"""One training that several cards share, as a rented machine runs it; gloo stands in for NCCL."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch

from everview.models.weight_files import load_model
from everview.pipeline.training.checkpoints import newest
from everview.workflows.campaign import gpu_session
from tests.workflows.test_compile_ahead import two_sizes


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_two_ranks_train_what_one_trains_and_bring_it_back_once(tmp_path, monkeypatch) -> None:
    often = replace(two_sizes(), commit_every_s=0.0)  # before cooling begins, too
    monkeypatch.setattr(gpu_session, "find_recipe", lambda _: lambda: often)
    found, weights = [], []
    for ranks in (1, 2):
        out, run = tmp_path / f"out{ranks}", tmp_path / f"run{ranks}"
        given = ["--plan", "main", "--steps", "4", "--ranks", str(ranks)]
        assert gpu_session.main([*given, "--out", str(out), "--run", str(run)]) == 0
        found.append([line["loss"] for line in lines(out) if "loss" in line])
        weights.append(load_model(run / "now").state_dict())
        assert len(list(out.glob("weights.tar.*"))) == len(list(out.glob("trunk.tar.*"))) == 1
        assert newest(run / "checkpoints", pytest.fail).facts["ranks"] == ranks
        assert json.loads((out / "report.json").read_text())["ranks"] == ranks
    assert len(found[0]) == 4
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    for name, value in weights[0].items():
        # a last step of Muon turns rounding into a little more
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=2e-3, msg=name)


def test_ranks_end_at_the_same_time_with_their_cooldown_done(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gpu_session, "find_recipe", lambda _: two_sizes)
    out, ends = tmp_path / "out", time.time() + 24
    given = ["--plan", "main", "--ranks", "2", "--until", str(ends), "--margin-s", "4"]
    assert gpu_session.main([*given, "--out", str(out), "--run", str(tmp_path / "run")]) == 0
    assert json.loads((out / "report.json").read_text())["finished"]
    steps = [line for line in lines(out) if "rate" in line]
    assert steps[-1]["progress"] == pytest.approx(1.0, abs=0.1)
    assert steps[-1]["rate"] < 0.2


def test_scenes_that_ranks_cannot_share_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gpu_session, "find_recipe", lambda _: two_sizes)
    given = ["--plan", "main", "--ranks", "3", "--steps", "1"]
    with pytest.raises(Exception, match=r"can.t be cut into 3 equal shares"):
        gpu_session.main([*given, "--out", str(tmp_path / "out"), "--run", str(tmp_path / "run")])


def test_sigterm_ends_them_all_with_a_commit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gpu_session, "find_recipe", lambda _: two_sizes)
    out, run = tmp_path / "out", tmp_path / "run"
    curve = run / "metrics.jsonl"

    def interrupt() -> None:
        for _ in range(1200):
            if curve.exists() and curve.stat().st_size:
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    watching = threading.Thread(target=interrupt)
    watching.start()
    given = ["--plan", "main", "--ranks", "2", "--steps", "100000", "--out", str(out)]
    assert gpu_session.main([*given, "--run", str(run)]) == 0
    watching.join()
    assert newest(run / "checkpoints", pytest.fail).step >= 1
    assert not json.loads((out / "report.json").read_text())["finished"]
    assert not active_children()
    assert signal.getsignal(signal.SIGTERM) == before
