"""What was done for a batch, beside its scenes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Account:
    """Filled while scenes are made. skipped: frames left out and why. notes: worth reading.

    rendered_views, render_cpu_s: pictures of meshes, and the processor seconds they took.
    """

    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rendered_views: int = 0
    render_cpu_s: float = 0.0
