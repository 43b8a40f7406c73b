"""The flags of verbs that stream and can be looked into meanwhile."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from everview.pipeline.viewing.config import DEFAULT_PORT, PageOptions
from everview.workflows.cli.arguments import Switch

if TYPE_CHECKING:
    from everview.pipeline.streaming.progress import Progress
    from everview.pipeline.streaming.session import Session


@dataclass(frozen=True, kw_only=True)
class ViewFlags:
    """How a stream is shown is no part of what it computes: none of this is in `run.json`."""

    view: Switch = False
    """serve a page on loopback that looks into the memory while it learns"""
    view_port: int = DEFAULT_PORT
    """port of the page (0: a free one)"""


def beside_session(
    flags: ViewFlags, size: int, progress: Progress, session: Session
) -> AbstractContextManager[object]:
    """The page that the flags ask for, while the session lasts. size: short side of frames, px."""
    from everview.pipeline.streaming.stream import nobody
    from everview.pipeline.viewing.live import LiveView

    if not flags.view:
        return nobody(session)
    return LiveView(session, size, PageOptions(port=flags.view_port), progress)
