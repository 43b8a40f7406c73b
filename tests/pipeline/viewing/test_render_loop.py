"""Pictures for visitors: one at a time, the latest camera wins, nobody waits for them."""

from __future__ import annotations

import queue
import threading

import numpy as np
import pytest

from everview.pipeline.rendering.asked import RenderedView
from everview.pipeline.viewing.cameras import Eye
from everview.pipeline.viewing.renders import MOST_VISITORS, RenderLoop, Sizes

DEADLINE_S = 20


class SlowRenderer:
    """Draws when it is let; notes how many drew at once."""

    def __init__(self, is_free: bool = True):
        self.gate = threading.Semaphore(0)
        self.is_free, self.begun = is_free, queue.Queue()
        self.at_once, self.most_at_once = 0, 0
        self.fails = 0

    def render(self, cameras, times, with_memory=False):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.put(times[0])
        if not self.is_free:
            assert self.gate.acquire(timeout=DEADLINE_S)
        self.at_once -= 1
        if self.fails:
            self.fails -= 1
            raise RuntimeError("no memory left")
        camera = cameras[0]
        image = np.full((camera.height, camera.width, 3), 99, np.uint8)
        depth = np.ones((camera.height, camera.width), np.float32)
        yield RenderedView(camera, times[0], image, depth, depth)


@pytest.fixture
def serve():
    """A loop on a renderer, and the queue of what visitors are shown."""
    loops = []

    def start(renderer, **options):
        shown: queue.Queue = queue.Queue()
        loop = RenderLoop(
            lambda: renderer, lambda who, picture: shown.put((who, picture)), Sizes(64, 32, 8),
            **options,
        )  # fmt: skip
        loops.append((loop, renderer))
        return loop, shown

    yield start
    for loop, renderer in loops:
        renderer.is_free = True
        renderer.gate.release(1000)
        loop.close()


def eye(x: float = 0.0) -> Eye:
    return Eye(np.array([1.0, 0, 0, 0]), np.array([x, 0, 0]), 1.0, 1.5)


def test_of_many_wishes_while_one_picture_is_made_only_the_last_is_met(serve):
    renderer = SlowRenderer(is_free=False)
    loop, shown = serve(renderer)
    loop.look(1, eye(), 0.0)
    assert renderer.begun.get(timeout=DEADLINE_S) == 0.0
    for moment in range(1, 21):
        loop.look(1, eye(), float(moment))  # returns at once, though a picture is being made
    renderer.is_free = True
    renderer.gate.release()
    moments = {shown.get(timeout=DEADLINE_S)[1].view.time_s for _ in range(3)}
    assert moments == {0.0, 20.0}
    assert renderer.most_at_once == 1


def test_a_camera_that_moves_gets_a_coarse_picture_and_one_that_rests_a_full_one(serve):
    loop, shown = serve(SlowRenderer())
    loop.look(1, eye(), None)
    first, second = (shown.get(timeout=DEADLINE_S)[1] for _ in range(2))
    assert (first.is_coarse, first.view.camera.height) == (True, 32)
    assert (second.is_coarse, second.view.camera.height) == (False, 64)


def test_a_new_memory_is_drawn_again_for_everybody(serve):
    loop, shown = serve(SlowRenderer(), is_shared=True)
    for visitor in (1, 2):
        loop.look(visitor, eye(), None)
    full = []
    while len(full) < 2:
        visitor, picture = shown.get(timeout=DEADLINE_S)
        full += [] if picture.is_coarse else [visitor]
    loop.refresh()
    assert {shown.get(timeout=DEADLINE_S)[0] for _ in range(2)} == {1, 2}


def test_before_the_first_chunk_nothing_is_drawn_and_after_it_everything(serve):
    renderer = SlowRenderer()
    published: list[SlowRenderer | None] = [None]
    asked = threading.Event()

    def current():
        asked.set()
        return published[0]

    shown: queue.Queue = queue.Queue()
    loop = RenderLoop(current, lambda who, picture: shown.put(who), Sizes(64, 32, 8))
    loop.look(1, eye(), None)
    assert asked.wait(DEADLINE_S)
    published[0] = renderer
    loop.refresh()
    assert shown.get(timeout=DEADLINE_S) == 1
    loop.close()


def test_a_picture_that_fails_costs_only_itself(serve):
    renderer = SlowRenderer()
    renderer.fails = 2
    loop, shown = serve(renderer)
    loop.look(1, eye(), None)
    for _ in range(2):
        renderer.begun.get(timeout=DEADLINE_S)
    loop.look(1, eye(1.0), 5.0)
    assert shown.get(timeout=DEADLINE_S)[1].view.time_s == 5.0


def test_visitors_are_counted_and_those_who_leave_make_room(serve):
    loop, _ = serve(SlowRenderer())
    assert all(loop.look(visitor, eye(), None) for visitor in range(MOST_VISITORS))
    assert not loop.look(99, eye(), None)
    loop.leave(0)
    assert loop.look(99, eye(), None)
