"""Rows of the fault matrix that end one stream from outside: kills, and a disk that is full."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path
from typing import Any

from everview.workflows.faults.bad_line import CORRUPT, Fault
from everview.workflows.faults.one_stream import PATIENCE_S, Streamed, clean, stream, streamed
from everview.workflows.faults.trial import demand, start


def killed_between_segments(seed: int, folder: Path) -> float:
    """Row 14b. The same over a walk of several segments, kills of their archiving among them: the
    archived segments are the same files, too."""
    spent = killed(seed, folder, reach=0.5)
    files = [
        sorted(path.name for path in (folder / name / "segments").iterdir())
        for name in (f"whole-{seed % 2}", f"killed-{seed}")
    ]
    demand(len(files[0]) > 1, f"{len(files[0])} segments were archived")
    demand(files[0] == files[1], f"archived {files[1]}, not {files[0]}")
    return spent


def killed(seed: int, folder: Path, **more: Any) -> float:
    """Row 14. SIGKILL at a random touch of a file in the run's directory, over a line with every
    fault on it; the same command again leaves what a run that was never killed leaves: rows,
    trajectory, state and events, bit for bit. more: for `streamed.py`."""
    more["every_s"] = 0.3
    fault = Fault(("black", CORRUPT), 0.03, duplicates=0.1, reorder=8)
    whole_name = f"whole-{seed % 2}"
    if not (folder / whole_name / "metrics.json").exists():
        unharmed = stream(folder, whole_name, fault, seed % 2, **more)
        demand(unharmed.wait(PATIENCE_S) == 0, unharmed.said()[-400:])
    whole = Streamed.by(folder / whole_name)
    log = (folder / f"{whole_name}.log").read_text()
    touches = int(re.findall(r"touched (\d+)", log)[-1])
    fatal = random.Random(seed).randint(8, touches * 3 // 4)
    name = f"killed-{seed}"
    attempt = stream(folder, name, fault, seed % 2, fatal=fatal, **more)
    code = attempt.wait(PATIENCE_S)
    demand(code == -signal.SIGKILL, f"touch {fatal} of {touches} wasn't met (exit code {code})")
    began = time.monotonic()
    found = streamed(folder, name, fault, seed % 2, **more)
    found.demand_effect(whole)
    demand(found.events == whole.events, "the events differ")
    demand(found.counts == whole.counts, f"counted {found.counts}, not {whole.counts}")
    demand(found.psnr == whole.psnr, f"{found.psnr} dB, not {whole.psnr}")
    return time.monotonic() - began


def stream_disk_full(seed: int, folder: Path) -> float:
    """Row 16b. A file system that is full after a few snapshots: exit 75, and with room again the
    run ends as one that always had room. Needs the right to mount."""
    disk = folder / f"disk-{seed}"
    disk.mkdir()
    room = random.Random(seed).randint(4, 8)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}m", "tmpfs", str(disk)]
    demand(start([], folder / "mount.log", mount).wait() == 0, "can't mount a small file system")
    try:
        whole = clean(folder)
        on_disk = {"out": str(disk / "run"), "every_s": 0.0}
        attempt = stream(folder, f"full-{seed}", **on_disk)
        code = attempt.wait(PATIENCE_S)
        demand(code == 75, f"exit code {code}, not 75, with {room} MiB: {attempt.said()[-300:]}")
        demand("Traceback" not in attempt.said(), "a traceback")
        grown = ["mount", "-o", "remount,size=400m", str(disk)]
        demand(start([], folder / "mount.log", grown).wait() == 0, "can't grow it")
        began = time.monotonic()
        again = stream(folder, f"full-{seed}", **on_disk)
        demand((code := again.wait(PATIENCE_S)) == 0, f"exit code {code}: {again.said()[-300:]}")
        Streamed.by(disk / "run").demand_effect(whole)
        return time.monotonic() - began
    finally:
        start([], folder / "mount.log", ["umount", "-l", str(disk)]).wait()
