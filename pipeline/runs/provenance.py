"""Which code, on what machine, with which libraries: the facts that make a run repeatable."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

from everview.datasets import cameras

_LIBRARIES = ("everview", "torch", "torchvision", "triton", "numpy", "pillow", "av", "safetensors",
              "torchmetrics", "lpips", "scipy", "pyarrow", "open3d", "pycolmap", "trimesh",
              "embreex", "gsplat", "ray", "deepspeed")  # fmt: skip


def library_versions() -> dict[str, str | None]:
    """Installed versions of what can change a result; None for what is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


@cache
def code_identity() -> dict[str, Any]:
    """Real path of the code that runs, its version, and its git revision if it is a checkout."""
    module = Path(cameras.__file__).resolve()
    identity: dict[str, Any] = {
        "path": str(module.parents[1]),
        "version": library_versions()["everview"],
        "revision": None,
        "modified": None,
    }
    # Installed code inside somebody's repository is not that repository's code.
    if _git(module.parent, "ls-files", "--error-unmatch", module.name) is None:
        return identity
    identity["revision"] = _git(module.parent, "rev-parse", "HEAD")
    changes = _git(module.parents[1], "status", "--porcelain", "--untracked-files=no")
    identity["modified"] = bool(changes)
    return identity


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe_host() -> dict[str, Any]:
    """The machine: system, processor, usable cores, memory, and torch's CPU threads."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "system": platform.platform(),
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "torch_threads": torch.get_num_threads(),
    }


def describe_device(device: torch.device | str) -> dict[str, Any]:
    """A torch device in words: its type and the name of the card or processor."""
    device = torch.device(device)
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return {
            "type": "cuda",
            "name": card.name,
            "memory_gib": round(card.total_memory / 2**30, 1),
        }
    return {"type": device.type, "name": _processor_name()}


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_rss_mib(with_children: bool = False) -> float:
    """Largest resident memory of this process so far, MiB; or of the largest ended child's."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if with_children:
        peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    # Linux counts KiB, macOS bytes.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
