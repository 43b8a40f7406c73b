"""The page in real Chromium, in software, while frames arrive."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from everview.datasets.cameras import Camera
from everview.models.weight_files import load_model
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.session import Session
from everview.pipeline.viewing.cameras import Eye
from everview.pipeline.viewing.config import PageOptions
from everview.pipeline.viewing.live import LiveView
from tests.pipeline.viewing.browser import DEADLINE_S, Browser

pytest.importorskip("viser")
pytestmark = pytest.mark.browser

WIDTH, HEIGHT = 640, 460
SCENE = (slice(195, 310), slice(10, 230))  # of the screen: below the notice, left of the panel
STATUS = "[...document.querySelectorAll('input')].map(e => e.value).find(t => /^live/.test(t))"
FOCUS_TIME = """(() => {
    const thumb = document.querySelector('[role=slider]');
    if (thumb) thumb.focus();
    return thumb ? thumb.getAttribute('aria-valuenow') : null;
})()"""

CLICK_FIRST = "[...document.querySelectorAll('button')].find(b => b.innerText == 'first').click()"


class Streaming:
    """Frames pushed one after the other until it is told to stop: a stream that doesn't end."""

    def __init__(self, session: Session, frames):
        self.frames_pushed = 0
        self.error: BaseException | None = None
        self._session, self._frames = session, frames
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for frame in self._frames:
                if self._stop.is_set():
                    return
                self._session.push(frame)
                self.frames_pushed += 1
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        assert self.error is None


def scene_of(browser: Browser, name: str) -> np.ndarray:
    """The part of the screen where the memory is drawn, [H, W, 3]."""
    return browser.shot(name)[0][SCENE].astype(int)


def test_camera_and_time_change_the_picture_while_frames_arrive(weights, make_frames, tmp_path):
    model = load_model(str(weights))
    session = Session(model, StreamPolicies(chunk_frames=4, retention_views=1), tmp_path / "run")
    session.out.mkdir()
    with (
        LiveView(session, 64, PageOptions(port=0, size=64)) as live,
        Browser(live.url, tmp_path, WIDTH, HEIGHT) as browser,
    ):
        browser.until(lambda: "0 frames" in str(browser.ask(STATUS)) or
                      "nothing" in str(browser.ask("document.body.innerHTML")))  # fmt: skip
        streaming = Streaming(session, make_frames(4000))
        browser.until(lambda: "chunks" in str(browser.ask(STATUS)))
        browser.until(lambda: scene_of(browser, "begun").std() > 12)
        seen = browser.ask(STATUS)
        browser.until(lambda: browser.ask(STATUS) != seen)  # it goes on without being asked
        pushed = streaming.frames_pushed

        streaming.stop()  # what changes from here on is what the visitor does
        assert streaming.frames_pushed >= pushed > 4
        browser.until(lambda: f"{session.num_seen} frames" in str(browser.ask(STATUS)))
        before = _settled(browser, "before")
        browser.drag((60, 250), (90, 0))
        browser.until(lambda: _differ(scene_of(browser, "moved"), before))
        moved = _settled(browser, "moved")
        assert moved.mean() > 20

        browser.until(lambda: browser.ask(FOCUS_TIME))
        browser.press("Home", 36)
        browser.until(lambda: browser.ask(FOCUS_TIME) == "0")
        browser.until(lambda: _differ(scene_of(browser, "earlier"), moved, least=0.2))
        assert _settled(browser, "earlier").mean() > 20
        browser.shot("whole")

        # the browser's axes are ours: it stands where the first frame's camera stood
        browser.ask(CLICK_FIRST)
        first = session.trajectory.evenly(2)[0].camera
        browser.until(lambda: _stands_at(live.page.loop.eyes(), first))


def _differ(image: np.ndarray, other: np.ndarray, least: float = 3.0) -> bool:
    return np.abs(image - other).mean() > least


def _stands_at(eyes: list[Eye], camera: Camera) -> bool:
    """Whether the one visitor looks through a camera, by what the browser itself reported."""
    pose = eyes[0].camera(64, 8).c2w_cv
    return len(eyes) == 1 and np.allclose(pose, camera.c2w_cv, atol=1e-3)


def _settled(browser: Browser, name: str) -> np.ndarray:
    """The scene once two looks in a row show the same."""
    last = [scene_of(browser, name)]

    def is_still() -> bool:
        last.append(scene_of(browser, name))
        return bool((last[-1] == last.pop(0)).all())

    browser.until(is_still)
    return last[-1]
