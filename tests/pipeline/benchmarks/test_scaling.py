"""The scaling benchmark: here small, with two ranks on the CPU; what it finds is no figure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from everview.pipeline.benchmarks.scaling import (
    context_parallel,
    data_parallel,
    equality,
    feed,
    overhead,
    stall,
)
from everview.pipeline.benchmarks.scaling.entries import ENTRIES, chosen
from everview.pipeline.benchmarks.scaling.processes import found_by_process, found_by_ranks
from everview.pipeline.benchmarks.scaling.rows import (
    COLUMNS,
    Entry,
    Findings,
    Goal,
    Row,
    Setting,
    run_benchmarks,
    table_rows,
)
from everview.pipeline.errors import EnvironmentUnfit, EverviewError, UsageError
from everview.pipeline.training import train_run
from everview.workflows.recipes import find_recipe
from tests.pipeline.training.flat_scenes import render_for_a_run

SMALL = Setting("cpu", 2, 1.0, small=True)


def compare_and_time(rank: int, size: int, path: Path) -> None:
    """Everything that two ranks measure together, in one start of them."""
    train_run.render_scenes = render_for_a_run
    for benchmark in (data_parallel, context_parallel):
        benchmark.ROUNDS, benchmark.UNIT_S = 1, 0.01
    equality.measure(rank, size, path, equality.comparisons(SMALL))
    data_parallel.measure(rank, size, path, data_parallel.run_of_one(SMALL), 0.0)
    context_parallel.measure(rank, size, path, context_parallel.captures(SMALL), 0.0)


def test_two_ranks_give_equal_results_and_are_timed_against_one() -> None:
    found, failure = found_by_ranks(compare_and_time, 2, "cpu", time.time() + 240)
    assert failure is None
    data, context, timed, divided = found
    for line in (data, context):
        assert line["loss"] <= equality.GOAL.value
        assert line["gradient"] < 1e-4
        assert line["weights"] < 1e-3
    assert set(timed["ms"]) == {"one", "each alone", "together"}
    assert timed["ratio"] > 0
    assert timed["tokens"] == 2 * 8 * 16
    assert set(divided["ms"]) == {"one", "each alone", "divided"}
    assert divided["loss_difference"] < 1e-5


def test_what_a_process_found_is_kept_when_it_fails() -> None:
    found, failure = found_by_process(half_done, time.time() + 240)
    assert found == [{"done": 1}]
    assert failure == "no more"


def half_done(path: Path) -> None:
    Findings(path).add(done=1)
    raise EverviewError("no more")


def test_a_commit_is_weighed_against_steps_without(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(train_run, "render_scenes", render_for_a_run)
    monkeypatch.setattr(stall, "UNIT_S", 0.3)
    (config,) = stall.runs_to_commit(SMALL)
    stall.measure(0, 1, tmp_path / "found", config, 1, 0.0)
    (line,) = read(tmp_path / "found")
    assert line["quiet_s"] > 0
    assert 0 < line["blocked_s"] <= line["written_s"]
    assert line["state_mib"] > 1


def test_both_sources_of_the_feed_are_measured_and_so_is_its_use(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(train_run, "render_scenes", render_for_a_run)
    monkeypatch.setattr(feed, "render_scenes", render_for_a_run)
    feed.measure(0, 1, tmp_path / "found", feed.run_to_feed(SMALL), 0.05, 1, 0.0)
    procedural, shards, use, waiting = read(tmp_path / "found")
    assert (procedural["source"], shards["source"]) == ("procedural", "shards")
    assert set(waiting) == {"waiting_share"}
    # 2 scenes in each of 4 parts, of 8 views, every 4 steps
    assert use["used_per_s"] * use["step_ms"] / 1e3 == pytest.approx(16)
    for line in (procedural, shards):
        assert line["ratio"] == pytest.approx(line["views_per_s"] / use["used_per_s"])


@pytest.mark.parametrize(("device", "recipe"), [("cpu", "tiny"), ("cuda", "first_light")])
def test_the_feed_is_that_of_a_recipe(device: str, recipe: str) -> None:
    ours = feed.run_to_feed(Setting(device, 1, 1.0)).data
    theirs = find_recipe(recipe)().data
    for name in ("size", "views", "samples_per_pixel", "refresh_scenes", "reuse"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.shapes[0].scenes == theirs.shapes[0].scenes
    assert {world.name for world in ours.worlds} == {world.name for world in theirs.worlds}


def test_ways_of_a_run_are_compared_with_the_faster_bare_one(monkeypatch) -> None:
    config = overhead.run_to_compare(SMALL)
    ms = {"bare": 11.0, "bare, captured": 10.0, "DeepSpeed ZeRO 0": 10.1}
    rows = list(overhead._rows(config, {way: [value] for way, value in ms.items()},
                               {"Ray Train + DeepSpeed ZeRO 2": "it broke"}))  # fmt: skip
    by_way = {row.case.partition(", ")[0]: row for row in rows}
    assert by_way["DeepSpeed ZeRO 0"].figure == pytest.approx(0.01)
    assert by_way["Ray Train + DeepSpeed ZeRO 2"].failure == "it broke"
    monkeypatch.setattr(overhead, "installed", lambda name: name == "ray")
    assert list(overhead.ways(config)) == ["bare"]
    assert list(overhead.ways_on_ray(config)) == ["Ray Train + bare"]
    (row,) = overhead._rows(config, {"bare": [1.0]}, {})
    assert row.failure is not None
    assert row.failure.startswith("deepspeed is not installed")


@pytest.mark.ray
@pytest.mark.long
def test_the_same_run_goes_bare_with_deepspeed_and_on_ray(no_ray) -> None:
    rows = list(overhead.overhead(SMALL, time.time() + 300))
    assert [row.failure for row in rows] == [None] * 5
    assert all(row.figure is not None for row in rows)


def test_a_row_that_fails_is_named_and_the_others_are_kept(tmp_path) -> None:
    def broken(setting: Setting, until: float) -> Iterator[Row]:
        yield Row("broken", "first", figure=2.0, goal=Goal(1.9, False, "x"))
        raise EverviewError("the second one broke")

    def whole(setting: Setting, until: float) -> Iterator[Row]:
        kept = json.loads((tmp_path / "out.json").read_text())["rows"]
        assert len(kept) == 2  # written before the next benchmark begins
        yield Row("whole", "", figure=float("nan"), unit="%", goal=Goal(0.03, True, "%"))

    entries = (Entry("broken", broken, 1.0), Entry("whole", whole, 1.0))
    report = run_benchmarks(entries, SMALL, tmp_path / "out.json", lambda text: None)
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert [row["met"] for row in report["rows"]] == [True, None, False]
    assert report["rows"][1]["failure"] == "the second one broke"
    assert [len(cells) for cells in table_rows(report)] == [len(COLUMNS)] * 3


def test_rows_are_chosen_by_the_beginning_of_their_names() -> None:
    assert [entry.name for entry in chosen("feed, check")] == ["checkpoint stall", "feed"]
    assert chosen("") == ENTRIES
    with pytest.raises(UsageError, match="'other'"):
        chosen("other")


def test_a_setting_that_cannot_be_measured_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert Setting.here("auto", None, 1.0, ()) == Setting("cuda", 1, 1.0)
    assert Setting.here("cpu", None, 1.0, ()) == Setting("cpu", 2, 1.0)
    with pytest.raises(EnvironmentUnfit, match="2 ranks need a GPU each, and there are 1"):
        Setting.here("auto", 2, 1.0, ())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Setting.here("auto", None, 1.0, ()) == Setting("cpu", 2, 1.0)
    with pytest.raises(EnvironmentUnfit, match="there are 0; give fewer, or --device cpu"):
        Setting.here("cuda", None, 1.0, ())
    with pytest.raises(UsageError, match="0 ranks"):
        Setting.here("cpu", 0, 1.0, ())


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
