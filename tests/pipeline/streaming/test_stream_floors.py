"""The floors of a stream are those that `evaluate` draws of the same frames."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from everview.pipeline.evaluation.floor_scores import score_floors
from everview.pipeline.evaluation.protocols import Split
from everview.pipeline.evaluation.scene_frames import load_scene
from everview.pipeline.streaming.floors import RunningColour, StreamFloors
from everview.pipeline.streaming.stream import stream_capture

pytestmark = pytest.mark.usefixtures("without_lpips")


def test_a_stream_has_the_floors_that_evaluate_draws(config, tmp_path):
    result = stream_capture(config, tmp_path / "run")
    targets = tuple(range(0, 21, config.hold_out))
    observed = tuple(index for index in range(21) if index not in targets)
    scene = load_scene(config.capture, "walk", config.size)
    expected = score_floors(scene, Split((observed,), targets), None)
    metrics = json.loads((result.run / "metrics.json").read_text())
    for name in ("mean_colour", "nearest_view"):
        for key, value in expected.scores[name].means().items():
            assert metrics["floors"][name][key] == (value and pytest.approx(value, rel=1e-6)), key
    assert metrics["floors"]["depth_warp"] is None
    assert "evaluate" in metrics["missing"]["floors.depth_warp"]
    assert metrics["scenes"][0]["floors"]["mean_colour"] == metrics["floors"]["mean_colour"]
    for words in ("5 held-out frames", "mean colour of the inputs", "nearest input copied"):
        assert words in result.table
    assert f"{metrics['floors']['nearest_view']['psnr']:.2f}" in result.table


def test_without_held_out_frames_there_are_no_floors_and_a_reason(config, tmp_path):
    result = stream_capture(replace(config, hold_out=0), tmp_path / "run")
    assert set(result.metrics["floors"].values()) == {None}
    for name in ("mean_colour", "nearest_view", "depth_warp"):
        assert result.metrics["missing"][f"floors.{name}"] == "hold_out is 0"
    assert result.table == ""


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]])
def test_pictures_are_kept_only_until_the_last_comparison(frames, order):
    """Frames 0 and 3 are held out, both nearest to 1; 2 is nearest to none."""
    few = frames(4)
    compared = []

    def score(picture: np.ndarray, frame) -> dict[str, float | None]:
        compared.append((frame.index, float(np.abs(picture - few[1].image).max())))
        return {"psnr": float(frame.index)}

    floors = StreamFloors(None, {0: 1, 3: 1}, score)
    for index in order:
        (floors.add_held_out if index in (0, 3) else floors.add_observed)(few[index])
    assert sorted(compared) == [(0, 0.0), (3, 0.0)]
    assert floors.means() == {"nearest_view": {"psnr": 1.5}}
    assert "mean colour" in floors.missing()["floors.mean_colour"]
    assert not floors._pictures
    assert not floors._waiting


def test_the_running_colour_survives_a_snapshot_and_is_not_guessed_without_one(frames):
    whole, cut = RunningColour(), RunningColour()
    for index, frame in enumerate(frames(6)):
        whole.add(frame)
        if index == 3:
            cut = RunningColour.from_facts(json.loads(json.dumps(cut.to_facts())))
        cut.add(frame)
    assert np.array_equal(whole.mean(), cut.mean())
    unknown = RunningColour.from_facts(None)
    unknown.add(frames(1)[0])
    assert unknown.mean() is None
