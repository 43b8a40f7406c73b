"""The page: a visitor's picture of the memory, the cameras it saw, and how the stream goes.

What moves in the page arrives on viser's thread and only leaves wishes; pictures are made in the
`RenderLoop`'s thread, everything else in the thread that calls `update`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from everview.datasets.cameras import Camera
from everview.pipeline.rendering.stills import colourise_depth
from everview.pipeline.viewing.cameras import Eye, fitting_fov, frusta
from everview.pipeline.viewing.charts import Charts
from everview.pipeline.viewing.comparisons import Comparisons
from everview.pipeline.viewing.renders import MOST_VISITORS, Picture, RenderLoop, Sizes
from everview.pipeline.viewing.scenes import Covered, Viewable
from everview.pipeline.viewing.solids import Solids

if TYPE_CHECKING:
    from viser import CameraHandle, ClientHandle, GuiEvent, ViserServer

PICTURE, MEMORY, DEPTH, CONFIDENCE = "picture", "memory alone", "depth", "confidence"
_SEEN, _HELD_OUT, _NEWEST = (37, 99, 235), (234, 88, 12), (220, 38, 38)
_JPEG_QUALITY = 95
_STEPS = 200  # of the time slider
_SOLIDS = {"points": "points.ply", "mesh": "mesh.ply"}


class Page:
    """One scene on one server. `update` brings it up to date; `close` ends the pictures."""

    def __init__(self, server: ViserServer, scene: Viewable, size: int):
        """size: short side of the pictures, pixels."""
        self._server, self._scene = server, scene
        patch = scene.patch()
        coarse = max(4 * patch, size // 2 // patch * patch)
        self._covered: Covered | None = None
        self._version = -1
        self._radius = 1.0
        self._start: Camera | None = None
        self._turned_away: set[int] = set()
        self.loop = RenderLoop(
            scene.renderer, self._show, Sizes(size, min(coarse, size), patch), scene.is_live
        )
        self._solids = Solids(server, scene.run)
        self._add_controls()
        with server.gui.add_folder("stream", expand_by_default=scene.is_live):
            self._charts = Charts(server)
        if not scene.is_live:
            Comparisons(server, scene.run)
        self.update()
        server.on_client_connect(self._arrive)
        server.on_client_disconnect(self._leave)

    def _add_controls(self) -> None:
        gui = self._server.gui
        self._status: Any = gui.add_text("scene", "nothing has been absorbed yet", disabled=True)
        self._made: Any = gui.add_text("view", "", disabled=True)
        self._time: Any = gui.add_slider(
            "time, s", 0.0, 1.0, 0.01, 0.0, visible=False, hint="since the first frame"
        )
        self._follow: Any = gui.add_checkbox("newest time", self._scene.is_live, visible=False)
        self._kind = gui.add_dropdown(
            "show", (PICTURE, MEMORY, DEPTH, CONFIDENCE), initial_value=PICTURE
        )
        self._stand = gui.add_button_group("stand at", ("first", "middle", "newest"))
        self._has_picture = gui.add_checkbox("picture", True)
        self._has_cameras = gui.add_checkbox("cameras", True)
        self._has_solid = {name: gui.add_checkbox(name, False, visible=False) for name in _SOLIDS}
        self._lines: Any = None
        self._time.on_update(self._time_changed)
        self._kind.on_update(self._kind_changed)
        self._has_picture.on_update(self._kind_changed)
        self._stand.on_click(self._go)
        self._has_cameras.on_update(lambda _: self._draw_cameras())
        for name, box in self._has_solid.items():
            box.on_update(functools.partial(self._show_solid, name))

    # --- bringing the page up to date ---

    def update(self) -> None:
        """Everything that has changed since the last time; one thread."""
        self._scene.advance()
        version, covered = self._scene.version, self._scene.covered()
        has_grown = self._covered is None or covered.num_frames != self._covered.num_frames
        if has_grown:
            self._covered = covered
            self._draw_cameras()
            self._draw_time()
        if version != self._version:
            self._version = version
            if self._start is None:
                self._place_visitors(covered)
            self.loop.refresh()
        if self._solids.update(self._radius):
            for name, file in _SOLIDS.items():
                self._has_solid[name].visible = self._solids.has(file)
        self._charts.update(self._scene.history, self._scene.retention(), self._scene.counts())
        self._say()

    def _say(self) -> None:
        covered = self._covered
        frames = 0 if covered is None else covered.num_frames
        state = f"live: {frames} frames, {self._version} chunks" if self._scene.is_live else (
            f"a run of {frames} frames"
        )  # fmt: skip
        rate, seconds = self.loop.rate()
        made = f"{1e3 * seconds:.0f} ms" + (f", {rate:.1f} a second" if rate > 0 else "")
        for element, text in ((self._status, state), (self._made, made if seconds else "")):
            if element.value != text:
                element.value = text

    def _place_visitors(self, covered: Covered) -> None:
        """Once it is known where the scene is: where visitors begin, and which way is up."""
        layout = self._scene.layout()
        if layout is None:
            return
        self._radius = layout.radius
        self._start = covered.cameras[-1].camera if self._scene.is_live else layout.middle
        self._server.scene.set_up_direction(tuple(layout.up))
        begin = self._server.initial_camera
        begin.position = tuple(self._start.centre)
        begin.look_at = tuple(self._start.centre + self._radius * self._start.forward)
        begin.up = tuple(layout.up)
        begin.near, begin.far = self._radius / 200, self._radius * 1000
        self._draw_cameras()
        for client in self._server.get_clients().values():
            self._stand_at(client, self._start)

    def _draw_time(self) -> None:
        times = None if self._covered is None else self._covered.times_s
        if times is None or times[1] <= times[0]:
            return
        span = times[1] - times[0]
        self._time.max, self._time.step = span, span / _STEPS
        self._time.visible = self._follow.visible = True
        if self._follow.value and self._time.value != span:
            self._time.value = span

    def _draw_cameras(self) -> None:
        if self._covered is None or not self._covered.cameras:
            return
        seen = self._covered.cameras
        points = frusta([each.camera for each in seen], 0.06 * self._radius)
        tints = [_HELD_OUT if each.is_held_out else _SEEN for each in seen]
        if self._scene.is_live:
            tints[-1] = _NEWEST
        colours = np.repeat(np.array(tints, np.uint8), 16, axis=0).reshape(-1, 2, 3)
        self._lines = self._server.scene.add_line_segments(
            "/cameras", points, colours, thickness=1.5, thickness_units="screen",
            visible=self._has_cameras.value,
        )  # fmt: skip

    # --- visitors ---

    async def _arrive(self, client: ClientHandle) -> None:
        if self._start is not None:
            client.camera.fov = fitting_fov(self._start, client.camera.aspect)
        client.camera.on_update(self._moved)
        await self._moved(client.camera)

    async def _leave(self, client: ClientHandle) -> None:
        self.loop.leave(client.client_id)
        self._turned_away.discard(client.client_id)

    async def _moved(self, camera: CameraHandle) -> None:
        """A visitor's camera is elsewhere; on viser's thread, in order."""
        if not self._has_picture.value:
            return
        try:
            eye = Eye(camera.wxyz, camera.position, camera.fov, camera.aspect)
        except (ValueError, ZeroDivisionError):
            return
        visitor = camera.client.client_id
        if self.loop.look(visitor, eye, self._time_s()):
            self._turned_away.discard(visitor)
        elif visitor not in self._turned_away:
            self._turned_away.add(visitor)  # told once, however far the camera moves
            camera.client.add_notification(
                "Too many visitors", f"Pictures are drawn for {MOST_VISITORS} at a time."
            )

    def _look_again(self) -> None:
        for client in self._server.get_clients().values():
            camera = client.camera
            if not self._has_picture.value:
                self.loop.leave(client.client_id)
                client.scene.set_background_image(None)
                continue
            try:
                eye = Eye(camera.wxyz, camera.position, camera.fov, camera.aspect)
            except (ValueError, ZeroDivisionError):
                continue
            self.loop.look(client.client_id, eye, self._time_s())

    def _time_s(self) -> float | None:
        """The moment that is looked at, on the capture's clock."""
        times = None if self._covered is None else self._covered.times_s
        return None if times is None else times[0] + float(self._time.value)

    def _time_changed(self, event: GuiEvent) -> None:
        if event.client is not None and self._follow.value:
            self._follow.value = False  # a hand on the slider wins over the stream
        self._look_again()

    def _kind_changed(self, _: GuiEvent) -> None:
        self.loop.with_memory = self._kind.value == MEMORY
        self._look_again()

    def _show_solid(self, name: str, _: GuiEvent) -> None:
        self._solids.set_visible(_SOLIDS[name], self._has_solid[name].value)

    def _go(self, event: GuiEvent) -> None:
        if event.client is None or self._covered is None or not self._covered.cameras:
            return
        seen = self._covered.cameras
        places = {"first": 0, "middle": len(seen) // 2, "newest": len(seen) - 1}
        self._stand_at(event.client, seen[places[self._stand.value]].camera)

    def _stand_at(self, client: ClientHandle, camera: Camera) -> None:
        with client.atomic():
            client.camera.up_direction = -camera.c2w_cv[:3, 1]
            client.camera.position = camera.centre
            client.camera.look_at = camera.centre + self._radius * camera.forward
            client.camera.fov = fitting_fov(camera, client.camera.aspect)

    # --- pictures ---

    def _show(self, visitor: int, picture: Picture) -> None:
        """In the loop's thread; a visitor that has gone meanwhile gets nothing."""
        client = self._server.get_clients().get(visitor)
        if client is None or not self._has_picture.value:
            return
        image = self._drawn(picture)
        client.scene.set_background_image(image, format="jpeg", jpeg_quality=_JPEG_QUALITY)

    def _drawn(self, picture: Picture) -> np.ndarray:
        """What is asked to be shown, uint8 [H, W, 3]."""
        view = picture.view
        if self._kind.value == DEPTH:
            return colourise_depth(view.depth)
        if self._kind.value == CONFIDENCE:
            grey = (255 * np.clip(view.confidence, 0, 1)).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        if self._kind.value == MEMORY and view.memory_image is not None:
            return view.memory_image
        return view.image

    def close(self) -> None:
        """No more pictures."""
        self.loop.close()


def size_for(short_side: int, patch: int, asked: int | None) -> int:
    """The short side of pictures: as asked or as the frames', a multiple of the patch."""
    wanted = short_side if asked is None else asked
    return max(2, math.floor(wanted / patch + 0.5)) * patch
