"""Tracking: a run's curves in TensorBoard, Weights & Biases or MLflow, while it runs.

    tracker = open_tracker(Tracking(), run_directory, step)     # never raises for what is down
    curve = TrackedCurve(tracker)
    curve.line({"step": 10, "loss": 0.1, ...})                  # a line of metrics.jsonl
    tracker.close()

What always holds: a tracker that raises, blocks or has no disk left neither stops nor slows the
run. Writing happens in a thread of its own behind a bounded queue; the first failure is one
warning, and then the tracker is left alone.
"""

from everview.pipeline.tracking.config import Tracking
from everview.pipeline.tracking.curve_names import TrackedCurve, curve_scalars
from everview.pipeline.tracking.opening import open_tracker
from everview.pipeline.tracking.tracker import NoTracker, Tracker

__all__ = ["NoTracker", "TrackedCurve", "Tracker", "Tracking", "curve_scalars", "open_tracker"]
