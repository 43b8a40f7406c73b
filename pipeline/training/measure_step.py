"""How long the pieces of training take on this machine: scenes, and a step by shape and phase."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from everview.pipeline.training.captured import EAGER_USES, CapturedStep
from everview.pipeline.training.feeding import Draw, possible_draws
from everview.pipeline.training.held_out import world_name
from everview.pipeline.training.losses import episode_loss
from everview.pipeline.training.precision import mixed_precision
from everview.pipeline.training.step import training_step

if TYPE_CHECKING:
    from everview.pipeline.training.loop import TrainRun

REPEATS = 12


def time_scenes(run: TrainRun) -> list[dict[str, Any]]:
    """Views per second of each procedural world, after a first call that may compile."""
    data, rows = run.config.data, []
    for world in data.worlds:
        times = []
        for first in (0, 1000, 2000, 3000):  # a run's own blocks, more or less
            seeds = np.arange(first, first + data.refresh_scenes)
            render = partial(run.feeder.pool.render, world, seeds, data.views, data.size)
            times.append(seconds(partial(render, run.device), run.device))
        count = data.refresh_scenes * data.views
        row = {"world": world_name(world), "first_s": times[0]}
        row["views_per_s"] = count / min(times[1:])
        print(f"{row['world']:18s} first {times[0]:6.2f} s, then {row['views_per_s']:9.0f} views/s")
        rows.append(row)
    return rows


def time_steps(run: TrainRun) -> list[dict[str, Any]]:
    """Milliseconds of a step, for every shape and chunk count."""
    rows = []
    captured = captured_step(run)
    for draw in possible_draws(run.config.data):
        shape = draw.shape
        row: dict[str, Any] = {"size": run.config.data.side(shape), "scenes": shape.scenes}
        row |= {"inputs": shape.inputs, "targets": shape.targets}
        row |= {"chunks": draw.chunks, **time_step(run, draw), **time_captured(run, draw, captured)}
        print(", ".join(f"{name} {_short(value)}" for name, value in row.items()), flush=True)
        rows.append(row)
    captured = None  # its graphs' memory is free for what follows
    print(_tried("the profile", lambda: profile(run), ""), flush=True)
    return rows


def time_step(run: TrainRun, draw: Draw) -> dict[str, Any]:
    """One shape: feed, forward, forward and backward, and the whole step, in milliseconds."""
    weights = run.config.loss.at(0.0)
    episode = run.feeder.sample(draw, seed=0)

    def step() -> None:
        training_step(run.objective, run.optimiser, episode, draw.schedule, weights, 1e-3)

    def forward() -> Any:
        with mixed_precision(run.device):
            return run.model.forward(episode, draw.schedule)[1]

    def forward_backward() -> None:
        episode_loss(forward(), episode, weights)[0].backward()
        run.model.zero_grad(set_to_none=True)

    def feed() -> None:
        run.feeder.sample(draw, seed=0)

    first_s = seconds(step, run.device)
    on_gpu = run.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    repeat = REPEATS if on_gpu else 1
    phases = {"feed": feed, "forward": forward, "forward_backward": forward_backward, "step": step}
    result: dict[str, Any] = {"first_s": first_s}
    for name, phase in phases.items():
        result[f"{name}_ms"] = 1000 * seconds(phase, run.device, repeat)
    for name, phase in (("feed", feed), ("step", step)):
        waits = partial(host_waits, phase, run.device)
        result[f"{name}_host_waits"] = _tried(f"counting the {name}'s host waits", waits, None)
    if on_gpu:
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def captured_step(run: TrainRun) -> CapturedStep | None:
    """The training step as CUDA graphs, apart from the run's own; None without a GPU."""
    if run.device.type != "cuda":
        return None
    return CapturedStep(partial(training_step, run.objective, run.optimiser), run.model, print)


def time_captured(run: TrainRun, draw: Draw, step: CapturedStep | None) -> dict[str, Any]:
    """The whole step replayed as a CUDA graph, and with feeding before it: milliseconds."""
    if step is None:
        return {}
    weights = run.config.loss.at(0.0)
    episode = run.feeder.sample(draw, seed=0)

    def replay() -> None:
        step(episode, draw.schedule, weights, 1e-3)

    def feed_and_replay() -> None:
        step(run.feeder.sample(draw, seed=0), draw.schedule, weights, 1e-3)

    def measure() -> dict[str, Any]:
        result: dict[str, Any] = {}
        before = [seconds(replay, run.device) for _ in range(EAGER_USES + 1)]
        result["capture_s"] = before[-1]
        if step.failure is None:  # else the plain step would be measured once more
            torch.cuda.reset_peak_memory_stats()
            result["captured_ms"] = 1000 * seconds(replay, run.device, REPEATS)
            result["fed_captured_ms"] = 1000 * seconds(feed_and_replay, run.device, REPEATS)
            result["reserved_gib"] = torch.cuda.memory_reserved() / 2**30
        return result

    return _tried("measuring the captured step", measure, {})


def seconds(call: Callable[[], Any], device: torch.device, repeat: int = 1) -> float:
    """Mean wall-clock seconds of `repeat` calls in a row, the device's work included."""
    _wait(device)
    started = time.perf_counter()
    for _ in range(repeat):
        call()
    _wait(device)
    return (time.perf_counter() - started) / repeat


def host_waits(call: Callable[[], Any], device: torch.device) -> int:
    """How often `call` makes the host wait for the device; each place is printed once."""
    if device.type != "cuda":
        return 0
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [entry for entry in caught if "synchroniz" in str(entry.message)]
    for place in sorted({f"{entry.filename}:{entry.lineno}" for entry in waits}):
        print(f"  the host waits at {place}")
    return len(waits)


def profile(run: TrainRun, rows: int = 18) -> str:
    """Where the device's time goes in three steps of the run's own mix."""
    if run.device.type != "cuda":
        return ""
    weights = run.config.loss.at(0.0)
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for step in range(3):
            episode, schedule = run.feeder.episode(step, 0.0)
            training_step(run.objective, run.optimiser, episode, schedule, weights, 1e-3)
        _wait(run.device)
    events = sorted(profiler.key_averages(), key=lambda e: -e.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) or 1
    lines = [f"device time {total / 3000:.1f} ms a step"]
    for event in events[:rows]:
        share = event.self_device_time_total / total
        lines.append(f"{share:6.1%} {event.count / 3:7.1f} calls a step  {event.key[:90]}")
    return "\n".join(lines)


def _tried(what: str, call: Callable[[], Any], otherwise: Any) -> Any:
    """The result of `call`; if it fails, one line, and the other measurements go on."""
    try:
        return call()
    except Exception as error:
        print(f"  {what} failed: {type(error).__name__}: {error}", flush=True)
        return otherwise


def _short(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
