"""A page beside a session that streams: what it has absorbed so far, looked into from anywhere."""

from __future__ import annotations

import logging
import threading

from everview.pipeline.streaming.progress import Progress, Silent
from everview.pipeline.streaming.session import Session
from everview.pipeline.viewing.config import PageOptions
from everview.pipeline.viewing.page import Page
from everview.pipeline.viewing.scenes import LiveScene
from everview.pipeline.viewing.view import OpenPage

log = logging.getLogger(__name__)

_UPDATE_S = 0.5


class LiveView:
    """Serves while the context lasts; the session neither knows nor waits.

    with LiveView(session, short_side=128, options=PageOptions(port=0)) as live:
        print(live.url)
        session.push(frame); ...
    """

    def __init__(
        self,
        session: Session,
        short_side: int,
        options: PageOptions | None = None,
        progress: Progress | None = None,
    ):
        """short_side: of the frames that are pushed, pixels. Raises UsageError, TryAgain and
        EnvironmentUnfit as `open_server` does."""
        self._opened = OpenPage(LiveScene(session, short_side), options or PageOptions())
        self._opened.announce(progress or Silent())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="page", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the page is."""
        return self._opened.url

    @property
    def page(self) -> Page:
        """What is served there."""
        return self._opened.page

    def close(self) -> None:
        """Close the page."""
        self._ended.set()
        self._thread.join(timeout=30)
        self._opened.close()

    def _follow(self) -> None:
        said = ""
        while not self._ended.wait(_UPDATE_S):
            try:
                self._opened.page.update()
            except Exception as error:  # looking must never end a stream
                if said != str(error):
                    said = str(error)
                    log.warning("the page could not be brought up to date: %s", said)

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
