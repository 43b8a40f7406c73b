"""Windows of a long stream: what the process holds, and how long frames took, in each."""

from __future__ import annotations

import os
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import psutil
import torch

from everview.kernels.backend import backends_in_use
from everview.pipeline.benchmarks.command import markdown
from everview.pipeline.runs import library_versions
from everview.pipeline.runs.provenance import describe_device, describe_host
from everview.pipeline.streaming.memory_use import resident_mib

COLUMNS = ("frame", "frames/s", "CPU/frame", "latency p50", "latency p95", "chunk p95", "RSS",
           "device", "state", "snapshot", "files", "threads", "views/s", "RSS ratio",
           "device ratio", "p95 ratio", "CPU ratio")  # fmt: skip


@dataclass(frozen=True)
class WindowRow:
    """`frames` frames from `frame` on. cpu_ms_per_frame: processor time of the session's thread
    (and of no other), which a busy machine disturbs least. latency: from arrival to absorbed;
    chunk: of the update alone. rss, device, state: MiB; rss is the median of every frame's, device
    the most allocated. snapshot_ms: median commit since the window before. views_per_s: drawn for a
    viewer."""

    frame: int
    frames: int
    frames_per_s: float
    cpu_ms_per_frame: float
    latency_ms_p50: float
    latency_ms_p95: float
    chunk_ms_p95: float
    rss_mib: float
    device_mib: float | None
    reserved_mib: float | None
    state_mib: float
    snapshot_ms: float | None
    files: int
    threads: int
    views_per_s: float | None

    def ratios(self, first: WindowRow) -> dict[str, float | None]:
        """To the first window."""
        device = None
        if self.device_mib is not None and first.device_mib:
            device = self.device_mib / first.device_mib
        return {
            "rss": self.rss_mib / first.rss_mib,
            "device": device,
            "latency_ms_p95": self.latency_ms_p95 / first.latency_ms_p95,
            "cpu_ms_per_frame": self.cpu_ms_per_frame / first.cpu_ms_per_frame,
            "ms_per_frame": first.frames_per_s / self.frames_per_s,
        }

    def cells(self, first: WindowRow) -> tuple[str, ...]:
        """As `COLUMNS`."""
        ratio = self.ratios(first)
        return (
            f"{self.frame:,}", f"{self.frames_per_s:.2f}", f"{self.cpu_ms_per_frame:.1f} ms",
            f"{self.latency_ms_p50:.1f} ms",
            f"{self.latency_ms_p95:.1f} ms", f"{self.chunk_ms_p95:.1f} ms",
            f"{self.rss_mib:.1f} MiB", _or_none(self.device_mib, ".1f", " MiB"),
            f"{self.state_mib:.2f} MiB", _or_none(self.snapshot_ms, ".0f", " ms"),
            str(self.files), str(self.threads), _or_none(self.views_per_s, ".1f"),
            *(_or_none(ratio[name], ".3f") for name in
              ("rss", "device", "latency_ms_p95", "cpu_ms_per_frame")),
        )  # fmt: skip


def _or_none(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else format(value, form) + unit


@dataclass
class _Open:
    """A window that is being measured."""

    frame: int
    began: float
    cpu_began: float
    views: int
    rss: list[float] = field(default_factory=list)


@dataclass
class Meter:
    """Call `step` after every frame, in the session's thread. marks: windows of `window` frames
    begin after these."""

    marks: Sequence[int]
    window: int
    device: torch.device
    commits_ms: list[float] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    _open: _Open | None = None

    def step(self, seen: int, state_mib: Callable[[], float], views: int | None) -> bool:
        """Whether a window ended. seen: frames so far. state_mib: asked where a window ends. views:
        drawn for a viewer so far, None without one."""
        now, has_ended = time.monotonic(), False
        if self._open is not None:
            self._open.rss.append(resident_mib())
            if seen == self._open.frame + self.window:
                self._close(self._open, now, state_mib(), views)
                self._open, has_ended = None, True
        if seen in self.marks:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            self._open = _Open(seen, now, time.thread_time(), views or 0)
        return has_ended

    def _close(self, window: _Open, now: float, state_mib: float, views: int | None) -> None:
        process, seconds = psutil.Process(), now - window.began
        device_mib = reserved_mib = None
        if self.device.type == "cuda":
            device_mib = torch.cuda.max_memory_allocated(self.device) / 2**20
            reserved_mib = torch.cuda.memory_reserved(self.device) / 2**20
        self.measured.append({
            "frame": window.frame, "frames": self.window, "frames_per_s": self.window / seconds,
            "cpu_ms_per_frame": 1e3 * (time.thread_time() - window.cpu_began) / self.window,
            "rss_mib": statistics.median(window.rss), "device_mib": device_mib,
            "reserved_mib": reserved_mib, "state_mib": state_mib,
            "snapshot_ms": statistics.median(self.commits_ms) if self.commits_ms else None,
            "files": process.num_fds(), "threads": process.num_threads(),
            "views_per_s": None if views is None else (views - window.views) / seconds,
        })  # fmt: skip
        self.commits_ms.clear()

    def rows(self, journal: Iterable[Mapping[str, Any]]) -> tuple[WindowRow, ...]:
        """With the latencies in the stream's own rows, which are gone through once."""
        begins = [values["frame"] for values in self.measured]
        inside: list[list[tuple[float, int, float]]] = [[] for _ in begins]
        for row in journal:
            place = bisect_right(begins, row["id"]) - 1
            if place >= 0 and row["id"] < begins[place] + self.window and row["chunk"] is not None:
                inside[place].append((row["latency_ms"], row["chunk"], row["absorb_ms"]))
        made = []
        for values, told in zip(self.measured, inside, strict=True):
            latencies = [latency for latency, _, _ in told]
            chunks = list({chunk: absorb for _, chunk, absorb in told}.values())
            made.append(
                WindowRow(
                    **values,
                    latency_ms_p50=float(np.percentile(latencies, 50)),
                    latency_ms_p95=float(np.percentile(latencies, 95)),
                    chunk_ms_p95=float(np.percentile(chunks, 95)),
                )
            )
        return tuple(made)


@dataclass(frozen=True)
class LongStreamReport:
    """What was measured, where, of what, and how busy the machine was meanwhile."""

    rows: tuple[WindowRow, ...]
    settings: Mapping[str, Any]
    stream: Mapping[str, Any]
    device: torch.device
    load: tuple[float, float]

    def table(self) -> str:
        """In Markdown."""
        return markdown(COLUMNS, (row.cells(self.rows[0]) for row in self.rows))

    def circumstances(self) -> str:
        """Below the table."""
        s, stream = self.settings, self.stream
        device = describe_device(self.device)["name"]
        return (
            f"{stream['source']}, weights {s['weights']}, {s['size']} px, chunks of "
            f"{s['chunk_frames']}; windows of {s['window']} frames; {stream['counts']}; "
            f"{stream['frames_per_s']:.2f} frames/s over all; {device}, torch "
            f"{torch.__version__}, {torch.get_num_threads()} threads; load average "
            f"{self.load[0]:.1f} before and {self.load[1]:.1f} after"
        )

    def as_json(self) -> dict[str, Any]:
        """Rows with the machine and the versions that they were measured with."""
        first = self.rows[0]
        return {
            "rows": [asdict(row) | {"ratios": row.ratios(first)} for row in self.rows],
            "settings": dict(self.settings),
            "stream": dict(self.stream),
            "card": describe_device(self.device)["name"],
            "host": describe_host(),
            "load": list(self.load),
            "backends": backends_in_use(self.device),
            "versions": library_versions(),
        }


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)
