"""Rows of the fault matrix that one training process can meet."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

from everview.workflows.faults.trial import (
    Left,
    Training,
    commits_of,
    demand,
    start,
    steps_of,
    train,
)

SHORT = Training(steps=6)
_STRUCK = (sys.executable, "-m", "everview.workflows.faults.struck")


def unharmed(folder: Path, training: Training = SHORT) -> Left:
    """What a run that nothing happens to leaves; made once in `folder`."""
    out = folder / f"unharmed-{training.steps}-{training.workers}"
    if not (out / "weights").is_dir():
        train(training, out)
    return Left.by(out)


def cut_short(out: Path, training: Training = SHORT) -> None:
    """Leave a run in `out` that was killed with at least two commits."""
    attempt = start(training.words(out), out.with_suffix(".log"))
    attempt.until(lambda: len(commits_of(out)) >= 2, "second commit")
    attempt.kill()


def killed_while_committing(seed: int, folder: Path) -> float:
    """Row 2. Killed at a random touch of a file below checkpoints; every touch has its turn when
    there are as many seeds. The same command again leaves what an unharmed run leaves."""
    out = folder / f"touch-{seed}"
    checkpoints = str(out / "checkpoints")
    counted = folder / "touches"
    if not counted.exists():
        log = folder / "count.log"
        attempt = start(["0", str(folder / "count" / "checkpoints"),
                         *SHORT.words(folder / "count")], log, _STRUCK)  # fmt: skip
        demand(attempt.wait() == 0, attempt.said()[-400:])
        counted.write_text(re.findall(r"touched (\d+)", attempt.said())[-1])
    touches = int(counted.read_text())
    # a stride that meets every number once, spread over the run
    fatal = 1 + seed * 7919 % touches
    attempt = start([str(fatal), checkpoints, *SHORT.words(out)], folder / f"touch-{seed}.log",
                    _STRUCK)  # fmt: skip
    code = attempt.wait()
    demand(code == -signal.SIGKILL, f"touch {fatal} of {touches} wasn't met (exit code {code})")
    again = train(SHORT, out)
    Left.by(out).demand_equal(unharmed(folder))
    return time.monotonic() - again.started


def terminated(seed: int, folder: Path) -> float:
    """Row 6. SIGTERM at a random step: committed and gone with 143 within 5 s."""
    steps = Training(steps=400, commit_every_s=1e9)
    out = folder / f"term-{seed}"
    attempt = start(steps.words(out), folder / f"term-{seed}.log")
    wanted = random.Random(seed).randint(1, 25)
    attempt.until(lambda: steps_of(out) >= wanted, f"step {wanted}")
    asked = time.monotonic()
    attempt.process.send_signal(signal.SIGTERM)
    code = attempt.wait(60)
    # its report comes after the commit
    (commit,) = commits_of(out)
    committed_s = max(0.0, commit.stat().st_mtime - time.time() + time.monotonic() - asked)
    demand(code == 143, f"exit code {code}, not 143: {attempt.said()[-300:]}")
    demand(committed_s <= 5.0, f"the commit took {committed_s:.1f} s")
    demand(int(commit.name[5:13]) >= wanted, f"{commit.name} is older than the signal")
    return committed_s


def damaged(seed: int, folder: Path) -> float:
    """Row 7. Every file of the newest commit, truncated, with a flipped bit, or empty: named, and
    the commit before it used; the end is an unharmed run's."""
    kept = folder / "two-commits"
    if not kept.is_dir():
        cut_short(kept)
    newest = commits_of(kept)[-1]
    cases = [(file, kind) for file in sorted(newest.iterdir()) for kind in _DAMAGES]
    file, kind = cases[seed % len(cases)]
    out = folder / f"damage-{seed}"
    shutil.copytree(kept, out)
    _DAMAGES[kind](out / file.relative_to(kept))
    again = train(SHORT, out)
    said = again.said()
    demand("set aside" in said, f"{kind} {file.name}: nothing was set aside: {said[-300:]}")
    demand(
        file.name in said or file.name == "MANIFEST.json",
        f"{kind} {file.name} isn't named: {said[-300:]}",
    )
    demand("starting at step 0" not in said, f"{kind} {file.name}: began anew")
    Left.by(out).demand_equal(unharmed(folder))
    return time.monotonic() - again.started


def _truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


_DAMAGES = {
    "truncated": _truncate,
    "flipped": _flip,
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
}


def all_damaged(seed: int, folder: Path) -> float:
    """Row 7, its other half. Commits of which none verifies: exit 3, and none is touched again."""
    out = folder / f"hopeless-{seed}"
    cut_short(out)
    for commit in commits_of(out):
        _flip(random.Random(seed).choice(sorted(commit.glob("*.safetensors"))))
    for _ in range(2):
        attempt = start(SHORT.words(out), folder / f"hopeless-{seed}.log")
        code = attempt.wait()
        demand(code == 3, f"exit code {code}, not 3: {attempt.said()[-300:]}")
    return time.monotonic() - attempt.started


_MALICIOUS = (
    "import os, pickle, sys\n"
    "class Evil:\n"
    "    def __reduce__(self): return os.system, ('touch ' + sys.argv[2],)\n"
    "open(sys.argv[1], 'wb').write(pickle.dumps(Evil(), protocol=2))\n"
)


def malicious(seed: int, folder: Path) -> float:
    """Row 8. A checkpoint whose weights are a program: it doesn't run."""
    out, marker = folder / f"evil-{seed}", folder / f"marker-{seed}"
    cut_short(out)
    newest = commits_of(out)[-1]
    for file in newest.glob("*.safetensors"):
        writer = [sys.executable, "-c", _MALICIOUS]
        demand(start([str(file), str(marker)], folder / "evil.log", writer).wait() == 0, "no evil")
    again = train(SHORT, out)
    demand(not marker.exists(), "the checkpoint's program ran")
    demand("set aside" in again.said(), "the checkpoint wasn't set aside")
    return time.monotonic() - again.started


def disk_full(seed: int, folder: Path) -> float:
    """Row 16. A file system that is full after a few commits: exit 75, the last good commit is
    left, and with room again the run ends as an unharmed one. Needs the right to mount."""
    disk = folder / f"disk-{seed}"
    disk.mkdir()
    room = random.Random(seed).randint(4, 9)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}m", "tmpfs", str(disk)]
    demand(start([], folder / "mount.log", mount).wait() == 0, "can't mount a small file system")
    try:
        out = disk / "run"
        training = Training(steps=6, more=("--keep", "1000"))
        attempt = start(training.words(out), folder / f"full-{seed}.log")
        code = attempt.wait()
        demand(code == 75, f"exit code {code}, not 75, with {room} MiB: {attempt.said()[-300:]}")
        demand("Traceback" not in attempt.said(), "a traceback")
        grown = ["mount", "-o", "remount,size=200m", str(disk)]
        demand(start([], folder / "mount.log", grown).wait() == 0, "can't grow it")
        again = train(training, out)
        Left.by(out).demand_equal(unharmed(folder))
        return time.monotonic() - again.started
    finally:
        start([], folder / "mount.log", ["umount", "-l", str(disk)]).wait()


def two_runs(seed: int, folder: Path) -> float:
    """Row 24. A second run in the same directory is refused; once the first is killed it isn't."""
    out = folder / f"two-{seed}"
    first = start(Training(steps=4000).words(out), folder / f"two-{seed}.log")
    try:
        first.until(lambda: steps_of(out) >= 1, "first step")
        second = start(Training(steps=4000).words(out), folder / f"two-{seed}-second.log")
        code = second.wait()
        demand(code == 75, f"the second's exit code is {code}, not 75: {second.said()[-300:]}")
        demand(str(first.process.pid) in second.said(), "the second doesn't name the owner")
    finally:
        first.kill()
    began = time.monotonic()
    third = start(Training(steps=4000).words(out), folder / f"two-{seed}.log")
    try:
        before = steps_of(out)
        third.until(lambda: steps_of(out) > before, "step after the owner's death")
        return time.monotonic() - began
    finally:
        third.kill()
