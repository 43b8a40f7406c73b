"""The `room` world: furnished rooms seen from inside, as a person walks through them.

Furniture is low or stands at the walls, so that a walk at eye height is free. Slots of bodies are
pieces of furniture; an absent piece leaves its slots empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from everview.datasets.procedural.bodies import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    FRUSTUM,
    ROUNDED,
    Bodies,
    random_cuts,
    random_forms,
    random_turns,
)
from everview.datasets.procedural.draws import Draws, rotation_about_z
from everview.datasets.procedural.lighting import draw_lights
from everview.datasets.procedural.materials import draw_materials
from everview.datasets.procedural.motion import TRACKS, draw_motion
from everview.datasets.procedural.reliefs import draw_relief
from everview.datasets.procedural.scenes import BODIES, SceneBatch, assemble

_PIXEL_M = 0.024
_TABLE = slice(0, 5)
_CHAIRS = (slice(5, 9), slice(9, 13))
_SOFA = slice(13, 16)
_CABINETS = slice(16, 19)
_FLAT = slice(19, 25)
_PLANT = slice(25, 29)
_LOOSE = slice(29, BODIES)


def draw(seeds: Sequence[int], dynamic: bool) -> SceneBatch:
    """Room scenes; see `scenes.draw_scenes`."""
    draws = Draws(seeds, purpose=13, columns=9000)
    batch = len(seeds)
    bodies = Bodies.empty(batch, BODIES)
    half = draws.log_uniform(2, low=1.7, high=4.2)
    height = draws.uniform(low=2.3, high=3.4)
    _put_table(draws, bodies, half)
    _put_sofa(draws, bodies, half)
    _put_cabinets(draws, bodies, half)
    _put_flat_things(draws, bodies, half, height)
    _put_plant(draws, bodies, half)
    table_top = bodies.centre[:, 0] + bodies.half_size[:, 0] * [0.0, 0.0, 1.0]
    _put_loose(draws, bodies, half, table_top)
    has_relief = draws.chance(0.25)
    at = _against_wall(draws, half, 1, np.full((batch, 1), 0.4))[0][:, 0]
    size = draws.uniform(low=0.2, high=0.42)
    relief = draw_relief(draws, np.concatenate([at, (0.8 * size)[:, None]], -1), size, has_relief)

    group = np.full((batch, BODIES), TRACKS + 1)
    group[:, _LOOSE] = [1, 2, 3]
    group[:, _CHAIRS[0]] = 4
    group[:, _PLANT] = np.where(draws.chance(0.3), 2, TRACKS + 1)[:, None]
    bodies.track = np.where((group <= TRACKS) & dynamic, group, 0)
    lead = bodies.centre[:, [_LOOSE.start, _LOOSE.start + 1, _LOOSE.start + 2, _CHAIRS[0].start]]
    pivot = np.where(np.abs(lead) < 20.0, lead, 0.0)
    motion = draw_motion(draws, pivot, np.full(batch, 0.4), dynamic)

    lamp = np.stack([*(0.75 * half * draws.uniform(2, low=-1.0)).T, height * 0.96], -1)
    reach = 1.0 / (half**2).sum(-1)
    falloff = reach * draws.uniform(low=0.0, high=1.6)
    look = draw_lights(draws, lamp, flat=0.12, shadow=0.6, falloff=falloff)
    look["light"] = look["light"] * (1.0 + falloff * height**2)[:, None]
    look["materials"] = _materials(draws)
    look["focus"] = np.stack([0.0 * height, 0.0 * height, 0.5 * height], -1)
    look["extent"] = np.sqrt((half**2).sum(-1))
    shell_half = np.concatenate([half, height[:, None] / 2.0], -1)
    centre = np.stack([0.0 * height, 0.0 * height, height / 2.0], -1)
    shell = (centre, shell_half, np.ones((batch, 6), bool))
    return assemble(
        world="room", seeds=seeds, dynamic=dynamic, bodies=bodies, shell=shell,
        relief=relief, look=look, motion=motion,
    )  # fmt: skip


def _against_wall(
    draws: Draws, half: np.ndarray, count: int, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places on the floor with their backs to a wall: [B, n, 2], yaw [B, n], wall index [B, n].

    depth [B, n]: half the thing's depth. Yaw turns the local y axis away from the wall.
    """
    wall = draws.integers(count, high=4)
    along = draws.uniform(count, low=-0.85, high=0.85)
    axis = wall // 2
    sign = np.where(wall % 2 == 0, -1.0, 1.0)
    reach, width = half[:, None, :], half[:, None, ::-1]
    rows = np.broadcast_to(axis[..., None], (*axis.shape, 1))
    off = sign * (np.take_along_axis(reach * np.ones((1, count, 1)), rows, -1)[..., 0] - depth)
    side = along * (np.take_along_axis(width * np.ones((1, count, 1)), rows, -1)[..., 0] - 0.4)
    place = np.where((axis == 0)[..., None], np.stack([off, side], -1), np.stack([side, off], -1))
    inward = np.where(
        axis == 0, np.where(sign > 0, np.pi, 0.0), np.where(sign > 0, -1, 1) * np.pi / 2
    )
    return place, inward - np.pi / 2, wall


def _turned(local: np.ndarray, yaw: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Local points [B, n, 3] of pieces turned by yaw [B] and moved to origin [B, 3]."""
    return np.einsum("bij,bnj->bni", rotation_about_z(yaw), local) + origin[:, None]


def _put_table(draws: Draws, bodies: Bodies, half: np.ndarray) -> None:
    """A table with four legs and up to two chairs on thin legs at its sides."""
    batch = draws.batch
    present = draws.chance(0.75)
    place = 0.45 * half * draws.uniform(2, low=-1.0)
    yaw = draws.uniform(high=np.pi)
    top = draws.uniform(low=0.45, high=0.78)
    wide = np.stack([draws.uniform(low=0.4, high=1.0), draws.uniform(low=0.3, high=0.5)], -1)
    origin = np.concatenate([place, np.zeros((batch, 1))], -1)
    turn = rotation_about_z(yaw)[:, None]
    signs = np.array([[0, 0], [1, 1], [1, -1], [-1, 1], [-1, -1]], np.float64)
    legs = 0.92 * signs * wide[:, None]
    z = np.concatenate([top[:, None], np.repeat(top[:, None] / 2.0, 4, 1)], 1)
    leg = draws.uniform(low=0.015, high=0.04)
    size = np.stack([leg, leg, top / 2.0], -1)
    sizes = np.concatenate(
        [
            np.concatenate([wide, np.full((batch, 1), 0.02)], -1)[:, None],
            np.repeat(size[:, None], 4, 1),
        ],
        1,
    )
    local = np.concatenate([legs, z[..., None]], -1)
    bodies.put(_TABLE, _turned(local, yaw, origin), sizes, rotation=turn, present=present[:, None])
    for number, slots in enumerate(_CHAIRS):
        has = (draws.chance(0.7) & present) | draws.chance(0.15)
        side = np.where(number == 0, 1.0, -1.0)
        away = np.stack(
            [0.5 * wide[:, 0] * draws.uniform(low=-1.0), side * (wide[:, 1] + 0.2), 0.0 * top], -1
        )
        spot = _turned(away[:, None], yaw, origin)[:, 0]
        facing = yaw + np.where(number == 0, 0.0, np.pi) + 0.5 * draws.normal()
        _put_chair(draws, bodies, slots, spot, facing, has)


def _put_chair(
    draws: Draws, bodies: Bodies, slots: slice, spot: np.ndarray, yaw: np.ndarray, on: np.ndarray
) -> None:
    """Seat, back and two frames of thin rods or plates."""
    seat = draws.uniform(low=0.4, high=0.48)
    wide = draws.uniform(low=0.18, high=0.24)
    thin = np.where(draws.chance(0.5), 0.012, draws.uniform(low=0.012, high=0.18))
    zero = 0.0 * seat
    local = np.stack(
        [
            np.stack([zero, zero, seat], -1),
            np.stack([zero, wide, seat + 0.25], -1),
            np.stack([wide, zero, seat / 2.0], -1),
            np.stack([-wide, zero, seat / 2.0], -1),
        ],
        1,
    )
    size = np.stack(
        [
            np.stack([wide, wide, zero + 0.025], -1),
            np.stack([wide, zero + 0.015, draws.uniform(low=0.12, high=0.24)], -1),
            np.stack([zero + 0.012, thin, seat / 2.0], -1),
            np.stack([zero + 0.012, thin, seat / 2.0], -1),
        ],
        1,
    )
    turn = rotation_about_z(yaw)[:, None]
    bodies.put(slots, _turned(local, yaw, spot), size, rotation=turn, present=on[:, None])
    frame = slice(slots.start + 2, slots.stop)
    hollow = np.array([2.0, 0.82, 0.88])
    open_frame = (draws.chance(0.6) & on)[:, None]
    bodies.cut(frame, np.zeros(3), hollow, present=open_frame)


def _put_sofa(draws: Draws, bodies: Bodies, half: np.ndarray) -> None:
    present = draws.chance(0.6)[:, None]
    depth = draws.uniform(1, low=0.35, high=0.45)
    place, yaw, _ = _against_wall(draws, half, 1, depth + 0.05)
    wide = draws.uniform(low=0.5, high=1.1)
    seat = draws.uniform(low=0.32, high=0.45)
    d, zero = depth[:, 0], 0.0 * wide
    local = np.stack(
        [
            np.stack([zero, zero, seat / 2.0], -1),
            np.stack([zero, 0.12 - d, seat + 0.12], -1),
            np.stack([wide, zero, seat / 2.0 + 0.12], -1),
        ],
        1,
    )
    size = np.stack(
        [
            np.stack([wide, d, seat / 2.0], -1),
            np.stack([wide, zero + 0.12, zero + 0.25], -1),
            np.stack([zero + 0.1, d, seat / 2.0 + 0.1], -1),
        ],
        1,
    )
    origin = np.concatenate([place[:, 0], np.zeros((draws.batch, 1))], -1)
    form = np.where(draws.chance(0.5), ROUNDED, BOX)[:, None]
    turn = rotation_about_z(yaw[:, 0])[:, None]
    bodies.put(
        _SOFA, _turned(local, yaw[:, 0], origin), size, form=form, rotation=turn, present=present
    )


def _put_cabinets(draws: Draws, bodies: Bodies, half: np.ndarray) -> None:
    """Cupboards and shelves at the walls, some open (cut out), some tall."""
    depth = draws.uniform(3, low=0.12, high=0.3)
    place, yaw, _ = _against_wall(draws, half, 3, depth)
    tall = np.where(
        draws.chance(0.4, 3),
        draws.uniform(3, low=0.8, high=1.1),
        draws.uniform(3, low=0.25, high=0.6),
    )
    wide = draws.uniform(3, low=0.25, high=0.8)
    centre = np.concatenate([place, tall[..., None]], -1)
    bodies.put(
        _CABINETS, centre, np.stack([wide, depth, tall], -1), rotation=rotation_about_z(yaw),
        present=draws.chance(0.75, 3),
    )  # fmt: skip
    share = draws.uniform(3, low=0.3, high=0.45)
    middle = np.stack([0.0 * share, 0.0 * share + 0.9, draws.uniform(3, low=-0.4, high=0.4)], -1)
    hollow = np.stack([0.0 * share + 0.9, 0.0 * share + 1.5, share], -1)
    bodies.cut(_CABINETS, middle, hollow, present=draws.chance(0.45, 3))


def _put_flat_things(draws: Draws, bodies: Bodies, half: np.ndarray, height: np.ndarray) -> None:
    """On the walls: a door, a window, pictures; on the floor: a carpet."""
    count = 6
    thin = np.full((draws.batch, count), 0.02)
    place, yaw, _ = _against_wall(draws, half, count, thin)
    wide = draws.uniform(count, low=0.2, high=0.65)
    tall = draws.uniform(count, low=0.2, high=0.6)
    middle = draws.uniform(count, low=1.2, high=1.7)
    # slot 0 is a door, slot 1 a window or radiator, the last a carpet
    wide[:, 0], tall[:, 0], middle[:, 0] = 0.45, 1.0, 1.0
    wide[:, 1], tall[:, 1] = 0.4 + 1.2 * wide[:, 1], 0.3 + 0.5 * tall[:, 1]
    is_low = draws.chance(0.4)
    middle[:, 1] = np.where(is_low, tall[:, 1] + 0.05, middle[:, 1])
    middle = np.minimum(middle, height[:, None] - tall - 0.03)
    centre = np.concatenate([place, middle[..., None]], -1)
    size = np.stack([wide, thin, tall], -1)
    carpet = half * draws.uniform(2, low=0.3, high=0.7)
    size[:, 5] = np.concatenate([carpet, np.full((draws.batch, 1), 0.008)], -1)
    spot = 0.4 * half * draws.uniform(2, low=-1.0)
    centre[:, 5] = np.concatenate([spot, np.full((draws.batch, 1), 0.008)], -1)
    yaw[:, 5] = 0.0
    present = draws.chance(np.array([0.8, 0.8, 0.85, 0.7, 0.5, 0.5]), count)
    bodies.put(_FLAT, centre, size, rotation=rotation_about_z(yaw), present=present)


def _put_plant(draws: Draws, bodies: Bodies, half: np.ndarray) -> None:
    """A pot, a stem and two crowns of leaves; or a floor lamp."""
    present = draws.chance(0.65)[:, None]
    place, _, _ = _against_wall(draws, half, 1, np.full((draws.batch, 1), 0.35))
    tall = draws.uniform(low=0.5, high=0.9)
    pot = draws.uniform(low=0.12, high=0.22)
    zero = 0.0 * tall
    crown = draws.uniform(2, low=0.18, high=0.42)
    shift = 0.15 * draws.normal(2, 2)
    base = np.repeat(place, 4, 1)
    base[:, 2:] += shift
    z = np.stack([pot, tall, 1.7 * tall, 1.7 * tall + 0.3 * draws.normal()], -1)
    size = np.stack(
        [
            np.stack([pot, pot, pot], -1),
            np.stack([zero + 0.02, zero + 0.02, tall], -1),
            np.stack([crown[:, 0], crown[:, 0], 1.2 * crown[:, 0]], -1),
            np.stack([crown[:, 1], crown[:, 1], 0.8 * crown[:, 1]], -1),
        ],
        1,
    )
    form = np.array([FRUSTUM, CYLINDER, ELLIPSOID, ELLIPSOID])
    form = np.where(draws.chance(0.3)[:, None], np.array([CYLINDER, CYLINDER, FRUSTUM, BOX]), form)
    centre = np.concatenate([base, z[..., None]], -1)
    bodies.put(_PLANT, centre, size, form=form, top=1.3, present=present)


def _put_loose(draws: Draws, bodies: Bodies, half: np.ndarray, table_top: np.ndarray) -> None:
    """Boxes, baskets and bowls on the table or the floor."""
    count = 3
    form, size = random_forms(draws, count, draws.log_uniform(count, low=0.1, high=0.3))
    spot = 0.7 * half[:, None] * draws.uniform(count, 2, low=-1.0)
    has_table = table_top[:, 2] > 0.0
    on_table = draws.chance(0.6, count) & has_table[:, None]
    near = table_top[:, None, :2] + 0.2 * draws.normal(count, 2)
    place = np.where(on_table[..., None], near, spot)
    size = np.where(on_table[..., None], 0.7 * size, size)
    turn = random_turns(draws, count, 0.1)
    bodies.put(
        _LOOSE, np.concatenate([place, np.zeros((*place.shape[:2], 1))], -1), size, form=form,
        rotation=turn, present=draws.chance(0.85, count),
    )  # fmt: skip
    random_cuts(draws, bodies, _LOOSE, 0.5)
    ground = np.where(on_table, table_top[:, None, 2], 0.0)
    reach = bodies.reach()[:, _LOOSE, 2]
    is_here = bodies.is_present()[:, _LOOSE]
    height = np.where(is_here, ground + reach, bodies.centre[:, _LOOSE, 2])
    bodies.centre[:, _LOOSE, 2] = height


def _materials(draws: Draws) -> np.ndarray:
    """Pieces keep one look: legs match, leaves are green, pictures are pictures."""
    pixel = np.full(draws.batch, _PIXEL_M)

    def one(role: str, count: int, scale: tuple[float, float] = (2.0, 16.0)) -> np.ndarray:
        return draw_materials(draws, count, role, pixel, scale)

    rows = one("object", 2 * BODIES)
    timber, metal = one("timber", 3), one("toy", 3)
    dark = draws.chance(0.6)[:, None, None]
    rows[:, 0:2] = np.where(dark, timber[:, :1], rows[:, 0:2])
    rows[:, 2:10] = np.where(dark, timber[:, 1:2], metal[:, :1])
    for slots in _CHAIRS:
        first = 2 * slots.start
        rows[:, first : first + 4] = rows[:, 10:11]
        rows[:, first + 4 : first + 8] = metal[:, 1:2]
    rows[:, 2 * _SOFA.start : 2 * _SOFA.stop] = one("wall", 1)
    cupboards = one("timber", 3)
    first = 2 * _CABINETS.start
    is_timber = draws.chance(0.5)[:, None, None]
    rows[:, first : first + 6 : 2] = np.where(is_timber, cupboards, rows[:, first : first + 6 : 2])
    first = 2 * _FLAT.start
    rows[:, first + 2 : first + 10] = one("picture", 8)
    rows[:, first + 10 : first + 12] = one("floor", 1)
    first = 2 * (_PLANT.start + 2)
    rows[:, first : first + 4] = one("leaves", 1, (1.5, 6.0))
    wall = np.repeat(one("wall", 1, (2.0, 24.0)), 4, 1)
    wall = np.where(draws.chance(0.35)[:, None, None], one("wall", 4, (2.0, 24.0)), wall)
    floor, ceiling = one("floor", 1, (2.0, 20.0)), one("ceiling", 1, (3.0, 24.0))
    relief, sky = one("object", 1, (1.5, 20.0)), one("sky", 1)
    return np.concatenate([rows, wall, floor, ceiling, relief, sky], 1)
