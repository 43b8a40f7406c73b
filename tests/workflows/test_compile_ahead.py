"""What is compiled ahead of a run, beside it, and that the run is as it would have been."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from multiprocessing import active_children
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from everview.pipeline.training.config import EpisodeShape, TrainConfig
from everview.pipeline.training.feeding import possible_draws
from everview.workflows.campaign import compile_ahead, gpu_session
from everview.workflows.campaign.compile_ahead import AHEAD, ahead_of, one_shape_each
from everview.workflows.recipes import RECIPES
from everview.workflows.recipes.first_light import tiny


def two_sizes() -> TrainConfig:
    """Seconds on a CPU; two shapes, the first with two numbers of chunks."""
    early = EpisodeShape(2, 4, 2, (1, 2), end=0.5, size=16)
    late = EpisodeShape(2, 4, 2, (1,), start=0.5)
    return replace(
        tiny(),
        evaluation=replace(tiny().evaluation, scenes=1, chunks=(1,)),
        data=replace(tiny().data, shapes=(early, late), pool_scenes=4, stored_scenes=4),
        device="cpu",
        report_every=1,
    )


@pytest.mark.parametrize("recipe", ["second_light", "beside_lact", "first_light"])
def test_the_parts_are_what_a_run_compiles_in_its_order(recipe: str) -> None:
    config = RECIPES[recipe]()
    draws = possible_draws(config.data)
    parts = one_shape_each(config)
    assert len(parts) == len(draws)
    for part, draw in zip(parts, draws, strict=True):
        (one,) = possible_draws(part.data)
        assert replace(one.shape, chunks=(), start=0.0, end=1.0) == replace(
            draw.shape, chunks=(), start=0.0, end=1.0
        )
        assert (one.chunk_views, one.schedule) == (draw.chunk_views, draw.schedule)


def test_a_run_is_the_same_and_what_compiled_for_it_ends_with_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gpu_session, "find_recipe", lambda _: two_sizes)
    lines = {}
    for name, more in (("alone", []), ("ahead", ["--compile-ahead"])):
        out, run = tmp_path / name, tmp_path / f"{name}-run"
        given = ["--plan", "main", "--steps", "4", "--out", str(out), "--run", str(run), *more]
        assert gpu_session.main(given) == 0
        assert not active_children()
        curve = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        lines[name] = [(line["step"], line["loss"]) for line in curve if "loss" in line]
    assert lines["ahead"] == lines["alone"]
    assert sorted(path.name for path in (tmp_path / "ahead-run" / AHEAD).iterdir()) == ["1", "2"]


def test_each_compiles_a_shape_of_its_own_and_ends(tmp_path) -> None:
    config = two_sizes()
    with ahead_of(config, tmp_path):
        for process in active_children():
            process.join(60)
            assert process.exitcode == 0
    told = [(tmp_path / AHEAD / number / "log").read_text() for number in "12"]
    for text, part in zip(told, one_shape_each(config)[1:], strict=True):
        assert str(part.data.shapes[0]) in text


def test_they_take_the_cards_of_the_ranks_in_turn(tmp_path) -> None:
    config = two_sizes()
    with ahead_of(config, tmp_path, ranks=2):
        for process in active_children():
            process.join(60)
    told = [(tmp_path / AHEAD / number / "log").read_text() for number in "12"]
    assert "card 1:" in told[0]
    assert "card 0:" in told[1]


def test_one_takes_its_card_before_anything_uses_it(tmp_path, monkeypatch) -> None:
    done = []
    run = SimpleNamespace(feeder=MagicMock(), device=torch.device("cpu"))
    monkeypatch.setattr(compile_ahead, "take_card", lambda card: done.append(("card", card)))
    monkeypatch.setattr(compile_ahead, "open_run", lambda *_: done.append("run") or run)
    compile_ahead.compile_one(replace(two_sizes(), device="auto"), tmp_path, 1)
    assert done == [("card", 1), "run"]
    done.clear()
    compile_ahead.compile_one(two_sizes(), tmp_path, 1)
    assert done == ["run"], "a CPU is everyone's"


def test_what_fails_to_compile_ahead_says_why_and_takes_nothing_along(tmp_path) -> None:
    lost = replace(two_sizes(), start_from=str(tmp_path / "nowhere"))
    with ahead_of(lost, tmp_path):
        for process in active_children():
            process.join(60)
            assert process.exitcode == 1
    assert not active_children()
    for number in "12":
        assert "nowhere" in (tmp_path / AHEAD / number / "log").read_text()


def test_a_run_that_compiles_nothing_has_nothing_compiled_ahead(tmp_path) -> None:
    with ahead_of(replace(two_sizes(), compile=False), tmp_path):
        assert not active_children()


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_an_interrupted_run_ends_them(tmp_path, number, raised) -> None:
    seen = []

    def interrupted() -> None:
        with ahead_of(two_sizes(), tmp_path):
            seen.extend(active_children())
            os.kill(os.getpid(), number)
            time.sleep(60)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(raised):
        interrupted()
    assert len(seen) == 2
    assert not active_children()
    assert signal.getsignal(signal.SIGTERM) == before
