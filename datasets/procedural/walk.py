"""The `walk` capture: a row of rooms without end, through which a person walks and comes back.

A hall is divided by walls whose openings lie at its left and right end in turn. No straight line
passes three of them, so a camera sees at most two rooms ahead and two behind: a frame needs five
rooms' bodies, which fit the slots of one scene, however long the walk is. Everything stands still
and is a function of the seed, the room's number and the frame's index; nothing is kept.

World: z up, metres; the walk begins at the closed end of the hall and goes towards +y.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from everview.datasets.cameras import Camera
from everview.datasets.procedural.bodies import Bodies, random_cuts, random_forms, random_turns
from everview.datasets.procedural.draws import Draws
from everview.datasets.procedural.lighting import draw_lights
from everview.datasets.procedural.materials import draw_materials
from everview.datasets.procedural.motion import TRACKS, draw_motion
from everview.datasets.procedural.reliefs import draw_relief
from everview.datasets.procedural.scenes import BODIES, SceneBatch, assemble
from everview.datasets.procedural.trajectories import look_at

STEP_M = 0.4
ROOM_M = 4.0
_HALF_WIDTH_M, _HEIGHT_M = 2.0, 2.6
_HALF_LENGTH_M = 20_000.0
_OPENING_M = 1.0
_THICK_M = 0.06
_SIGHT = 2  # rooms that are seen ahead and behind
_PIECES = 5  # bodies of a room, its walls apart
_PIXEL_M = 0.03
_TURN_FRAMES = 8
_EYE_M = 1.5
_SWAY_M = _HALF_WIDTH_M - _OPENING_M / 2
_START_M = 0.6
# The path through a room: length by the way into it; a room is as long as any other.
_Y_M = np.linspace(0.0, ROOM_M, 257)
_LENGTH_M = np.concatenate(
    [[0.0], np.hypot(np.diff(_Y_M), np.diff(_SWAY_M * np.cos(np.pi * _Y_M / ROOM_M))).cumsum()]
)


@dataclass(frozen=True)
class Walk:
    """One walk. frames: of the way out, the turn and the way back."""

    seed: int
    frames: int

    @property
    def reach_m(self) -> float:
        """Length of the path out, metres."""
        return STEP_M * self._frames_out

    @property
    def _frames_out(self) -> int:
        return max(1, (self.frames - _TURN_FRAMES) // 2)

    def rooms(self) -> int:
        """Rooms that are entered."""
        return int(_along(np.array(self.reach_m)) // ROOM_M) + 1

    def room_of(self, camera: Camera) -> int:
        """The number of the room in which a camera stands."""
        return int(camera.centre[1] // ROOM_M)

    def camera(self, index: float, size: int) -> Camera:
        """The square camera of frame `index`; fractions lie between frames."""
        out = self._frames_out
        turned = np.clip((index - out) / _TURN_FRAMES, 0.0, 1.0)
        gone = min(index, out) - max(index - out - _TURN_FRAMES, 0.0)
        y = float(_along(np.array(STEP_M * max(gone, 0.0))))
        eye = np.array([_aside(y), y, _EYE_M + 0.03 * np.sin(1.3 * index)])
        slope = _SWAY_M * np.pi / ROOM_M * np.sin(np.pi * y / ROOM_M)
        yaw = np.arctan2(1.0, slope) + np.pi * turned * turned * (3 - 2 * turned)
        yaw += 0.35 * np.sin(0.4 * index)
        pitch = -0.16 + 0.08 * np.sin(0.53 * index)
        flat = np.cos(pitch)
        sight = np.array([flat * np.cos(yaw), flat * np.sin(yaw), np.sin(pitch)])
        focal = 0.5 * size / np.tan(np.radians(self._field_of_view_deg) / 2)
        return Camera(size, size, focal, focal, size / 2, size / 2, look_at(eye, eye + sight))

    def scene(self, camera: Camera) -> SceneBatch:
        """What a camera sees: its room, two ahead and two behind."""
        here = self.room_of(camera)
        draws = Draws([self.seed], purpose=31, columns=4000)
        bodies = Bodies.empty(1, BODIES)
        materials = draw_materials(draws, 2 * BODIES, "wall", np.full(1, _PIXEL_M))
        for place, room in enumerate(range(here - _SIGHT, here + _SIGHT + 1)):
            slots = slice(place * _PIECES, (place + 1) * _PIECES)
            if room >= 0:
                rows = slice(2 * slots.start, 2 * slots.stop)
                materials[:, rows] = _furnish(self.seed, room, bodies, slots)
        first = (2 * _SIGHT + 1) * _PIECES
        for place, wall in enumerate(range(here - _SIGHT - 1, here + _SIGHT + 1)):
            if wall >= -1:
                row = 2 * (first + place)
                materials[:, row : row + 2] = _wall(self.seed, wall, bodies, first + place)
        return assemble(
            world="walk", seeds=[self.seed], dynamic=False, bodies=bodies,
            shell=(
                np.array([[0.0, 0.0, _HEIGHT_M / 2]]),
                np.array([[_HALF_WIDTH_M, _HALF_LENGTH_M, _HEIGHT_M / 2]]),
                np.ones((1, 6), bool),
            ),
            relief=draw_relief(draws, np.zeros((1, 3)), 0.1, np.zeros(1, bool)),
            look=_look(draws, materials),
            motion=draw_motion(draws, np.zeros((1, TRACKS, 3)), np.full(1, 0.1), False),
        )  # fmt: skip

    @cached_property
    def _field_of_view_deg(self) -> float:
        return float(Draws([self.seed], purpose=32, columns=1).uniform(low=64.0, high=76.0)[0])


def _aside(y: float) -> float:
    """Where the path lies across the hall: through the openings, left and right in turn."""
    return float(-_SWAY_M * np.cos(np.pi * y / ROOM_M))


def _along(travelled_m: np.ndarray) -> np.ndarray:
    """How far into the hall a path length reaches."""
    travelled = travelled_m + np.interp(_START_M, _Y_M, _LENGTH_M)
    rooms = np.floor(travelled / _LENGTH_M[-1])
    return rooms * ROOM_M + np.interp(travelled - rooms * _LENGTH_M[-1], _LENGTH_M, _Y_M)


def _furnish(seed: int, room: int, bodies: Bodies, slots: slice) -> np.ndarray:
    """Two pictures, a cupboard and two loose things; returns their materials [1, 2 n, columns]."""
    draws = Draws([seed], purpose=1000 + room, columns=2000)
    side = np.array([[-1.0, 1.0]])
    middle = ROOM_M * (room + 0.5)
    tall, wide = draws.uniform(2, low=0.3, high=0.6), draws.uniform(2, low=0.4, high=0.9)
    along = middle + draws.uniform(2, low=-0.8, high=0.8)
    up = draws.uniform(2, low=1.3, high=1.6)
    centre = np.stack([side * (_HALF_WIDTH_M - 0.01), along, up], -1)
    thin = np.full((1, 2), 0.02)
    pictures = slice(slots.start, slots.start + 2)
    bodies.put(pictures, centre, np.stack([thin, wide, tall], -1))
    # things stand in the corner beside the opening, off the path: see `_aside`
    hand = 1.0 if room % 2 == 0 else -1.0
    deep, long = draws.uniform(1, low=0.2, high=0.35), draws.uniform(1, low=0.3, high=0.7)
    high = draws.uniform(1, low=0.3, high=0.9)
    at = np.stack([-hand * (_HALF_WIDTH_M - deep), middle + 1.2 + 0.0 * deep, high], -1)
    cupboard = slice(slots.start + 2, slots.start + 3)
    bodies.put(cupboard, at, np.stack([deep, long, high], -1))
    loose = slice(slots.start + 3, slots.stop)
    form, size = random_forms(draws, 2, draws.log_uniform(2, low=0.25, high=0.5))
    turn = random_turns(draws, 2, 0.2)
    spot = np.array([[[hand * 1.4, middle - 1.0], [-hand * 0.9, middle + 0.6]]])
    spot = spot + 0.15 * draws.normal(2, 2)
    place = np.concatenate([spot, np.zeros((1, 2, 1))], -1)
    bodies.put(loose, place, size, form=form, rotation=turn)
    random_cuts(draws, bodies, loose, 0.4)
    bodies.centre[:, loose, 2] = bodies.reach()[:, loose, 2]
    pixel = np.full(1, _PIXEL_M)
    rows = [draw_materials(draws, 4, "picture", pixel), draw_materials(draws, 2, "timber", pixel)]
    return np.concatenate([*rows, draw_materials(draws, 4, "object", pixel)], 1)


def _wall(seed: int, wall: int, bodies: Bodies, slot: int) -> np.ndarray:
    """The wall behind a room, open at one end; that of number -1 is closed. Its materials."""
    draws = Draws([seed], purpose=500_000 + wall, columns=200)
    open_m = 0.0 if wall < 0 else _OPENING_M
    hand = 1.0 if wall % 2 == 0 else -1.0
    centre = np.array([[[-hand * open_m / 2, ROOM_M * (wall + 1), _HEIGHT_M / 2]]])
    half = np.array([[[_HALF_WIDTH_M - open_m / 2, _THICK_M, _HEIGHT_M / 2]]])
    bodies.put(slice(slot, slot + 1), centre, half)
    return np.repeat(draw_materials(draws, 1, "wall", np.full(1, _PIXEL_M), (3.0, 24.0)), 2, 1)


def _look(draws: Draws, materials: np.ndarray) -> dict[str, np.ndarray]:
    """Light that is the same in every room: from far above, without shadows."""
    pixel = np.full(1, _PIXEL_M)
    look = draw_lights(draws, np.array([[300.0, -500.0, 800.0]]), flat=0.0, shadow=0.0)
    wall = np.repeat(draw_materials(draws, 1, "wall", pixel, (3.0, 24.0)), 4, 1)
    floor = draw_materials(draws, 1, "floor", pixel, (2.0, 20.0))
    ceiling = draw_materials(draws, 1, "ceiling", pixel, (3.0, 24.0))
    rest = [draw_materials(draws, 1, role, pixel) for role in ("object", "sky")]
    look["materials"] = np.concatenate([materials, wall, floor, ceiling, *rest], 1)
    look["focus"] = np.zeros((1, 3))
    look["extent"] = np.full(1, ROOM_M)
    return look
