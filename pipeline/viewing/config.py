"""What `everview view` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from everview.pipeline.errors import UsageError
from everview.pipeline.viewing.server import check_loopback

DEFAULT_PORT = 7007
MOST_PIXELS = 1024


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Where a page is and how large its pictures are. Raises UsageError."""

    host: str = "127.0.0.1"
    """address to listen at, on loopback: viser knows no tokens"""
    port: int = DEFAULT_PORT
    """port to listen at (0: a free one)"""
    size: int | None = None
    """short side of the pictures, pixels (default: as the frames that were observed)"""

    def __post_init__(self) -> None:
        check_loopback(self.host)
        if not 0 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: 0 to 65535")
        if self.size is not None and not 16 <= self.size <= MOST_PIXELS:
            raise UsageError(f"--size {self.size}: 16 to {MOST_PIXELS} pixels")


@dataclass(frozen=True)
class ViewConfig(PageOptions):
    """Raises UsageError with the value, the limit and the reason."""

    run: str
    """run directory of `everview stream`, finished or interrupted"""
    weights: str | None = None
    """where the weights are now, if not where the run found them"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
