"""Resident memory of this process, now."""

from __future__ import annotations

import os
from pathlib import Path

from everview.pipeline.runs import peak_rss_mib

_STATM = Path("/proc/self/statm")


def resident_mib() -> float:
    """MiB resident now; where the system has no /proc, the largest so far."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return peak_rss_mib()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
