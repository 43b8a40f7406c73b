"""A tracker shows what a run measures, and nothing that happens to it happens to the run."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from everview.pipeline.errors import EnvironmentUnfit, UsageError
from everview.pipeline.tracking import (
    NoTracker,
    TrackedCurve,
    Tracking,
    curve_scalars,
    open_tracker,
    opening,
)
from everview.pipeline.tracking.background import BackgroundTracker

LINE = {
    "step": 20, "elapsed_s": 6.0, "progress": 0.5, "tokens": 3000, "rate": 0.7, "loss": 0.2,
    "rgb": 0.01, "memory_rgb": 0.1, "gradient_norm": 1.5, "skipped": 0.0, "ms_per_step": 200.0,
}  # fmt: skip


class Recorder:
    """A tracker that remembers; `fault` may raise or block at every call."""

    def __init__(self, fault: Callable[[], object] = lambda: None) -> None:
        self.told: list[tuple[int, Mapping[str, float]]] = []
        self.images: list[tuple[int, str]] = []
        self.is_closed = False
        self._fault = fault

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._fault()
        self.told.append((step, values))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self.images.append((step, name))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "everview")
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("everview")]


def test_everything_arrives_in_order_and_is_closed(warnings) -> None:
    recorder = Recorder()
    tracker = BackgroundTracker(lambda: recorder, "a recorder")
    values = {"train/loss": 1.0}
    for step in range(50):
        tracker.scalars(step, values)
        values["train/loss"] += 1.0
    tracker.image(50, "eval/views", np.zeros((4, 4, 3), np.uint8))
    tracker.close()
    assert [step for step, _ in recorder.told] == list(range(50))
    assert [told["train/loss"] for _, told in recorder.told] == [1.0 + i for i in range(50)]
    assert recorder.images == [(50, "eval/views")]
    assert recorder.is_closed
    assert warnings() == []


@pytest.mark.parametrize(
    "error",
    [RuntimeError("no server"), OSError(28, "No space left on device"), SystemExit(1)],
    ids=["raises", "full disk", "exits"],
)
def test_a_tracker_that_raises_is_one_warning_and_left_alone(error, warnings) -> None:
    calls = 0

    def fault() -> None:
        nonlocal calls
        calls += 1
        raise error

    tracker = BackgroundTracker(lambda: Recorder(fault), "a recorder", capacity=2000)
    for step in range(1000):
        tracker.scalars(step, {"train/loss": 1.0})
    tracker.close()
    tracker.scalars(1000, {"train/loss": 1.0})
    tracker.close()
    assert tracker.is_down
    assert calls == 1
    assert len(warnings()) == 1
    assert f"a recorder failed: {type(error).__name__}" in warnings()[0]


def test_a_tracker_that_does_not_open_is_one_warning(warnings) -> None:
    def opening_fails() -> Recorder:
        raise ConnectionError("nobody at this address")

    tracker = BackgroundTracker(opening_fails, "a recorder")
    tracker.close()
    assert warnings() == [
        "tracking: a recorder failed: ConnectionError: nobody at this address; the run goes on "
        "without it, its curve is in the run directory"
    ]


@pytest.mark.parametrize("where", ["opening", "writing"])
def test_a_tracker_that_blocks_never_holds_the_run(where, warnings) -> None:
    """All calls return while the tracker is still stuck: it is released only afterwards."""
    stuck = threading.Event()
    recorder = Recorder(stuck.wait if where == "writing" else lambda: None)

    def open_recorder() -> Recorder:
        if where == "opening":
            stuck.wait()
        return recorder

    tracker = BackgroundTracker(open_recorder, "a recorder", capacity=8, patience_s=0.2)
    for step in range(1000):
        tracker.scalars(step, {"train/loss": 1.0})
    assert not stuck.is_set()
    assert tracker.is_down
    assert len(warnings()) == 1
    assert "a recorder is behind by 8 lines" in warnings()[0]
    tracker.close()
    stuck.set()
    tracker._thread.join(10)
    assert not tracker._thread.is_alive()
    assert len(recorder.told) <= 1, "it was told more after it had been given up"


def test_closing_a_stuck_tracker_is_bounded_and_said(warnings) -> None:
    stuck = threading.Event()
    tracker = BackgroundTracker(lambda: Recorder(stuck.wait), "a recorder", patience_s=0.2)
    tracker.scalars(1, {"train/loss": 1.0})
    begin = time.monotonic()
    tracker.close()
    assert time.monotonic() - begin < 60  # it would be for ever
    assert "didn't finish within" in warnings()[0]
    stuck.set()


def test_tensorboard_holds_the_scalars_and_pictures_of_a_run_and_forgets_repeated_steps(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = open_tracker(Tracking(), tmp_path)
    for step in (1, 2, 3, 4):
        tracker.scalars(step, {"train/loss": 1.0 / step})
    tracker.image(4, "eval/views", np.full((8, 8, 3), 200, np.uint8))
    tracker.close()
    again = open_tracker(Tracking(), tmp_path, step=2)  # its last checkpoint is of step 2
    for step in (3, 4):
        again.scalars(step, {"train/loss": 10.0 + step})
    again.close()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in shown.Scalars("train/loss")]
    assert losses == [(1, 1.0), (2, 0.5), (3, 13.0), (4, 14.0)]
    assert shown.Images("eval/views") == []  # of step 4, which is done again


def test_a_full_disk_under_tensorboard_is_one_warning(tmp_path, warnings) -> None:
    (tmp_path / "tensorboard").write_bytes(b"in the way")
    tracker = open_tracker(Tracking(), tmp_path)
    tracker.scalars(1, {"train/loss": 1.0})
    tracker.close()
    assert len(warnings()) == 1
    assert "TensorBoard failed" in warnings()[0]


def test_no_tracker_leaves_nothing(tmp_path) -> None:
    tracker = open_tracker(Tracking(kind="none"), tmp_path)
    tracker.scalars(1, {"train/loss": 1.0})
    tracker.close()
    assert isinstance(tracker, NoTracker)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "name"), [("wandb", "Weights & Biases"), ("mlflow", "MLflow")])
def test_a_missing_extra_is_named_before_the_run_starts(kind, name, tmp_path, monkeypatch):
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(EnvironmentUnfit, match=rf"{name} is not installed: .*everview\[{kind}\]"):
        open_tracker(Tracking(kind=kind), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_tracked_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda package: package)
    with pytest.raises(UsageError, match="MLflow needs the address"):
        open_tracker(Tracking(kind="mlflow"), tmp_path)
    with pytest.raises(UsageError, match="holds no password"):
        Tracking(kind="mlflow", uri="https://me:secret@mlflow.example")
    with pytest.raises(UsageError, match="no tracker 'aim'"):
        Tracking(kind="aim")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="for mlflow"):
        Tracking(kind="wandb", uri="http://127.0.0.1:5000")


def test_lines_of_the_curve_have_the_names_people_expect() -> None:
    values = curve_scalars({**LINE, "share_of_peak": 0.4, "peak_gib": 3.0})
    assert values["train/loss"] == 0.2
    assert values["train/psnr"] == pytest.approx(20.0)
    assert values["train/memory_rgb"] == 0.1
    assert values["perf/ms_per_step"] == 200.0
    assert values["perf/share_of_peak"] == 0.4
    assert values["mem/peak_gib"] == 3.0
    assert "train/step" not in values
    assert math.isfinite(curve_scalars({**LINE, "rgb": 0.0})["train/psnr"])
    held_out = {"room/set/rgb": 20.0, "set/rgb": 21.0, "causal4/rgb": 19.0}
    assert curve_scalars({"step": 20, "elapsed_s": 6.0, "held_out": held_out}) == {
        "eval/psnr": 21.0,
        "eval/psnr_room_set_rgb": 20.0,
        "eval/psnr_set_rgb": 21.0,
        "eval/psnr_causal4_rgb": 19.0,
    }


def test_tokens_a_second_are_taken_between_training_lines() -> None:
    recorder = Recorder()
    curve = TrackedCurve(recorder)
    curve.line({**LINE, "step": 10, "tokens": 1000, "elapsed_s": 2.0})
    curve.line({"step": 10, "elapsed_s": 3.0, "held_out": {"set/rgb": 21.0}})
    curve.line(LINE)
    assert [step for step, _ in recorder.told] == [10, 10, 20]
    assert "perf/tokens_per_s" not in recorder.told[0][1]
    assert recorder.told[2][1]["perf/tokens_per_s"] == pytest.approx(2000 / 4.0)
