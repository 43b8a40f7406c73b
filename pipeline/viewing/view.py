"""`everview view RUN`: look into a run from anywhere, until Ctrl-C."""

from __future__ import annotations

import threading
from pathlib import Path

from everview.pipeline.streaming.progress import Progress, Silent
from everview.pipeline.viewing.config import PageOptions, ViewConfig
from everview.pipeline.viewing.page import Page, size_for
from everview.pipeline.viewing.scenes import RunScene, Viewable
from everview.pipeline.viewing.server import close_server, open_server, tunnel_line


class OpenPage:
    """A page that is being served; a context that closes it."""

    def __init__(self, scene: Viewable, options: PageOptions):
        """Raises what `open_server` does."""
        self._server = open_server(options.host, options.port)
        try:
            size = size_for(scene.short_side, scene.patch(), options.size)
            self.page = Page(self._server, scene, size)
        except BaseException:
            close_server(self._server)
            raise
        self.port: int = self._server.get_port()
        host = f"[{options.host}]" if ":" in options.host else options.host
        self.url = f"http://{host}:{self.port}"

    def announce(self, progress: Progress) -> None:
        """Say where the page is, here and from another machine."""
        progress.say(f"look at {self.url}")
        progress.say(f"from another machine: {tunnel_line(self.port)}, then the same address there")

    def close(self) -> None:
        """Stop serving."""
        self.page.close()
        close_server(self._server)

    def __enter__(self) -> OpenPage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def view_run(
    config: ViewConfig, progress: Progress | None = None, ended: threading.Event | None = None
) -> Path:
    """Serve the page of a run until Ctrl-C, or until `ended` is set; returns the run.

    Raises InputRejected for a directory without a usable snapshot, UsageError for a host that is
    not loopback, EnvironmentUnfit without viser, TryAgain when the port is taken.
    """
    progress = progress or Silent()
    ended = ended or threading.Event()
    scene = RunScene(Path(config.run), config.weights, config.device)
    with OpenPage(scene, config) as opened:
        opened.announce(progress)
        progress.say("Ctrl-C ends")
        try:
            while not ended.wait(0.5):
                opened.page.update()
        except KeyboardInterrupt:
            progress.say("the page is closed")
    return scene.run
