"""One attempt at training in a process of its own, and what it leaves, to be compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from everview.pipeline.training.checkpoints import MANIFEST
from everview.pipeline.training.reporting import CURVE, Curve
from everview.pipeline.training.train_run import CHECKPOINTS, WEIGHTS

PATIENCE_S = 300.0
COMMAND = (sys.executable, "-m", "everview.workflows.cli")
# of a curve's lines: what the clock says differs from run to run
_TIMED = ("elapsed_s", "ms_per_step", "feed_s", "tokens_per_s")


class Unmet(AssertionError):
    """What a row demands did not hold; what happened instead is in the message."""


def demand(holds: bool, otherwise: str) -> None:
    """Raise Unmet, with this sentence, unless it holds."""
    if not holds:
        raise Unmet(otherwise)


@dataclass(frozen=True)
class Training:
    """`everview train tiny` of so many steps, committing after every one unless told otherwise."""

    steps: int = 16
    workers: int = 1
    commit_every_s: float = 0.0
    more: tuple[str, ...] = ()

    def words(self, out: Path) -> list[str]:
        """After the program's name."""
        flags = {
            "--out": out, "--budget.seconds": None, "--budget.steps": self.steps,
            "--commit-every-s": self.commit_every_s, "--report-every": 1, "--device": "cpu",
            "--evaluation.scenes": 1, "--evaluation.chunks": 1, "--workers": self.workers,
        }  # fmt: skip
        return [
            "train",
            "tiny",
            *(str(word) for pair in flags.items() for word in pair),
            *self.more,
        ]


@dataclass
class Attempt:
    """A started command: its process, its log, when it began."""

    process: psutil.Popen
    log: Path
    started: float = field(default_factory=time.monotonic)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Its exit code. Raises Unmet when it doesn't end in time, and ends it."""
        try:
            return int(self.process.wait(patience_s))
        except psutil.TimeoutExpired:
            self.kill()
            raise Unmet(f"no end within {patience_s:g} s: {self.said()[-400:]}") from None

    def kill(self) -> None:
        """SIGKILL, to this process alone: its children have to notice."""
        if self.process.is_running():
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def said(self) -> str:
        """Everything it wrote."""
        return self.log.read_text(errors="replace")

    def until(self, happened: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        """What `happened` returns once that is true. Raises Unmet when the process ends before."""
        limit = time.monotonic() + patience_s
        while time.monotonic() < limit:
            if found := happened():
                return found
            demand(
                self.process.poll() is None,
                f"ended ({self.process.returncode}) before {what}: {self.said()[-400:]}",
            )
            time.sleep(0.01)
        raise Unmet(f"no {what} within {patience_s:g} s")


def start(words: Sequence[str], log: Path, program: Sequence[str] = COMMAND) -> Attempt:
    """Start the program with these words; what it says goes to `log`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        process = psutil.Popen(
            [*program, *words], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    return Attempt(process, log)


def train(training: Training, out: Path, patience_s: float = PATIENCE_S) -> Attempt:
    """Run it to its end, which must be a good one."""
    attempt = start(training.words(out), out.with_suffix(".log"))
    code = attempt.wait(patience_s)
    demand(code == 0, f"exit code {code}: {attempt.said()[-400:]}")
    return attempt


def steps_of(out: Path) -> int:
    """How far the curve in a run directory has come; 0 for none."""
    return max((int(line["step"]) for line in Curve.read(out / CURVE)), default=0)


def commits_of(out: Path) -> list[Path]:
    """Sealed checkpoints, oldest first."""
    return sorted(path.parent for path in (out / CHECKPOINTS).glob(f"step-*[!p]/{MANIFEST}"))


@dataclass(frozen=True)
class Left:
    """What a finished run left that must not depend on what happened to it."""

    weights: bytes
    curve: tuple[str, ...]

    @staticmethod
    def by(out: Path) -> Left:
        """Of the run in `out`. Raises Unmet where there are no weights."""
        files = sorted((out / WEIGHTS).rglob("*.safetensors"))
        demand(bool(files), f"{out} holds no weights")
        lines = [
            json.dumps({k: v for k, v in line.items() if k not in _TIMED}, sort_keys=True)
            for line in Curve.read(out / CURVE)
        ]
        # killed after its last measurement, a run measures once more
        return Left(b"".join(file.read_bytes() for file in files), tuple(dict.fromkeys(lines)))

    def demand_equal(self, other: Left) -> None:
        """Raise Unmet unless both are the same, bit for bit."""
        pairs = zip(self.curve, other.curve, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        demand(
            place is None and len(self.curve) == len(other.curve),
            f"the curve differs (from line {place} of {len(self.curve)} and {len(other.curve)})",
        )
        demand(self.weights == other.weights, "the curve is equal and the weights differ")
