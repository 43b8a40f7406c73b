"""Pictures for visitors, one at a time, in a thread of its own: never in the way of the stream.

Each visitor has one wish, the camera looked through last; older ones are forgotten, so a slow
machine skips pictures rather than falling behind. While a camera moves the picture is coarse
(unless a full one is quick); when it rests, full. A stream that shares the machine gets its share:
after each picture the thread rests as long as the picture took.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from everview.pipeline.rendering.asked import RenderedView
from everview.pipeline.rendering.renderer import Renderer
from everview.pipeline.viewing.cameras import Eye

log = logging.getLogger(__name__)

MOST_VISITORS = 8
_REST_S = 0.2  # a camera that has not moved for this long rests
_QUICK_S = 0.05  # pictures that take less need no coarse form
_RATE_OVER_S = 10.0


@dataclass(frozen=True)
class Sizes:
    """Short sides of the pictures in pixels; sides are multiples of `patch`."""

    full: int
    coarse: int
    patch: int


@dataclass(frozen=True)
class Picture:
    """What a visitor is shown. is_coarse: a better one follows when the camera rests."""

    view: RenderedView
    is_coarse: bool
    seconds: float


@dataclass
class _Visitor:
    """A wish and how far it was met. level: 0 nothing shown yet, 1 coarse, 2 full."""

    eye: Eye
    time_s: float | None
    moved_at: float
    level: int = 0
    served_at: float = 0.0


@dataclass
class _Pace:
    """When pictures were made, for the rate that is shown."""

    made_at: deque[float] = field(default_factory=lambda: deque(maxlen=1024))
    last_s: float = 0.0
    full_s: float | None = None


class RenderLoop:
    """Serves visitors until `close`. Every method may be called from any thread."""

    def __init__(
        self,
        renderer: Callable[[], Renderer | None],
        show: Callable[[int, Picture], None],
        sizes: Sizes,
        is_shared: bool = False,
    ):
        """renderer: of the memory as of now, None while there is none. show: hands a picture to a
        visitor; called in the loop's thread. is_shared: a stream runs on the same machine."""
        self.sizes = sizes
        self.with_memory = False
        self._renderer, self._show, self._is_shared = renderer, show, is_shared
        self._visitors: dict[int, _Visitor] = {}
        self._changed = threading.Condition()
        self._pace = _Pace()
        self._is_closed = False
        self._complaint = ""
        self._thread = threading.Thread(target=self._serve, name="viewing", daemon=True)
        self._thread.start()

    def look(self, visitor: int, eye: Eye, time_s: float | None) -> bool:
        """A visitor looks from there; False when there are too many visitors."""
        with self._changed:
            known = self._visitors.get(visitor)
            if known is None and len(self._visitors) >= MOST_VISITORS:
                return False
            served_at = 0.0 if known is None else known.served_at
            self._visitors[visitor] = _Visitor(eye, time_s, time.monotonic(), served_at=served_at)
            self._changed.notify_all()
        return True

    def leave(self, visitor: int) -> None:
        """A visitor has gone."""
        with self._changed:
            self._visitors.pop(visitor, None)

    def eyes(self) -> list[Eye]:
        """What the visitors look through now."""
        with self._changed:
            return [visitor.eye for visitor in self._visitors.values()]

    def refresh(self) -> None:
        """The memory or what is shown of it has changed: everybody's picture is made again."""
        with self._changed:
            for visitor in self._visitors.values():
                visitor.level = min(visitor.level, 1)
            self._changed.notify_all()

    def rate(self) -> tuple[float, float]:
        """Pictures a second over the last ten seconds at most, and seconds the last one took."""
        now = time.monotonic()
        made = [moment for moment in list(self._pace.made_at) if moment >= now - _RATE_OVER_S]
        span = now - made[0] if made else 0.0
        return (len(made) - 1) / span if span > 0 else 0.0, self._pace.last_s

    def close(self) -> None:
        """End the thread; a picture that is being made is finished first."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(timeout=30)

    def _serve(self) -> None:
        not_before = 0.0
        while True:
            with self._changed:
                job = self._next_job(not_before)
                if job is None:
                    return
                visitor, wish, is_coarse = job
            renderer = self._renderer_or_none()
            if renderer is None:
                with self._changed:  # before the first chunk: `refresh` will say so
                    wish.level = 2
                continue
            begin = time.monotonic()
            self._make(renderer, visitor, wish, is_coarse)
            now = time.monotonic()
            not_before = now + (now - begin if self._is_shared else 0.0)

    def _next_job(self, not_before: float) -> tuple[int, _Visitor, bool] | None:
        """Wait for the next picture to make, holding the lock; None when closed."""
        while not self._is_closed:
            now = time.monotonic()
            wake: float | None = None
            if now < not_before:
                wake = not_before
            else:
                is_quick = self._pace.full_s is not None and self._pace.full_s < _QUICK_S
                for visitor, wish in sorted(
                    self._visitors.items(), key=lambda item: item[1].served_at
                ):
                    if wish.level == 2:
                        continue
                    rests_at = wish.moved_at + _REST_S
                    if is_quick or now >= rests_at:
                        return visitor, wish, False
                    if wish.level == 0:
                        return visitor, wish, True
                    wake = rests_at if wake is None else min(wake, rests_at)
            self._changed.wait(None if wake is None else max(wake - now, 0.001))
        return None

    def _renderer_or_none(self) -> Renderer | None:
        try:
            return self._renderer()
        except Exception as error:
            self._complain(error)
            return None

    def _make(self, renderer: Renderer, visitor: int, wish: _Visitor, is_coarse: bool) -> None:
        begin = time.monotonic()
        side = self.sizes.coarse if is_coarse else self.sizes.full
        try:
            camera = wish.eye.camera(side, self.sizes.patch)
            with_memory = self.with_memory
            view = next(iter(renderer.render([camera], [wish.time_s], with_memory)))
            seconds = time.monotonic() - begin
            self._show(visitor, Picture(view, is_coarse, seconds))
        except Exception as error:  # a visitor's trouble must not end the others' pictures
            self._complain(error)
            seconds = time.monotonic() - begin
        with self._changed:
            wish.level = max(wish.level, 1 if is_coarse else 2)
            wish.served_at = time.monotonic()
        self._pace.made_at.append(wish.served_at)
        self._pace.last_s = seconds
        if not is_coarse:
            self._pace.full_s = seconds

    def _complain(self, error: Exception) -> None:
        """Once for each new kind of trouble."""
        complaint = f"{type(error).__name__}: {error}"
        if complaint != self._complaint:
            self._complaint = complaint
            log.warning("a view could not be drawn: %s", complaint)
