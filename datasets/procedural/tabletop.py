"""The `tabletop` world: clutter on a table or on the ground, in a hall, a yard or under a sky."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from everview.datasets.procedural.bodies import (
    BOX,
    CYLINDER,
    FRUSTUM,
    Bodies,
    random_cuts,
    random_forms,
    random_turns,
)
from everview.datasets.procedural.draws import Draws
from everview.datasets.procedural.lighting import draw_lights, sun_position
from everview.datasets.procedural.materials import draw_materials
from everview.datasets.procedural.motion import TRACKS, draw_motion
from everview.datasets.procedural.reliefs import draw_relief
from everview.datasets.procedural.scenes import BODIES, SceneBatch, assemble

_PIXEL_M = 0.012
_TABLE = slice(0, 5)
_CLUTTER = slice(5, 21)
_STACK = slice(21, 25)
_LAMP = slice(25, 28)
_BACKDROP = slice(28, BODIES)


def draw(seeds: Sequence[int], dynamic: bool) -> SceneBatch:
    """Tabletop scenes; see `scenes.draw_scenes`."""
    draws = Draws(seeds, purpose=12, columns=9000)
    batch = len(seeds)
    bodies = Bodies.empty(batch, BODIES)
    on_table = draws.chance(0.5)
    top = np.where(on_table, draws.uniform(low=0.4, high=0.8), 0.0)
    radius = draws.uniform(low=0.45, high=0.75)
    _put_table(draws, bodies, on_table, top, radius)
    _put_clutter(draws, bodies, top, radius)
    _put_stack(draws, bodies, top, radius)
    _put_lamp(draws, bodies, top, radius)
    room = draws.uniform(2, low=2.4, high=6.0)
    _put_backdrop(draws, bodies, room)
    has_relief = draws.chance(0.25)
    middle = np.concatenate(
        [draws.uniform(2, low=-0.25, high=0.25), (top + 0.55 * 0.4 * radius)[:, None]], -1
    )
    relief = draw_relief(draws, middle, 0.4 * radius, has_relief)

    group = draws.integers(BODIES, high=10) + 1
    group[:, _TABLE] = group[:, _BACKDROP] = TRACKS + 1
    moving = draws.integers(high=TRACKS)[:, None] + 1
    bodies.track = np.where((group <= moving) & dynamic, group, 0)
    pivot = np.concatenate(
        [draws.uniform(TRACKS, 2, low=-0.3, high=0.3), np.zeros((batch, 4, 1))], -1
    )
    motion = draw_motion(draws, pivot + np.array([0.0, 0.0, 0.1]), 0.35 * radius, dynamic)

    focus = np.stack([np.zeros(batch), np.zeros(batch), top + 0.1], -1)
    look = draw_lights(draws, sun_position(draws, focus, 6.0), flat=0.12, shadow=0.6)
    look["materials"] = _materials(draws)
    look["focus"] = focus
    look["extent"] = radius * 1.05
    assembled_shell = _shell(draws, room)
    return assemble(
        world="tabletop", seeds=seeds, dynamic=dynamic, bodies=bodies, shell=assembled_shell,
        relief=relief, look=look, motion=motion,
    )  # fmt: skip


def _shell(draws: Draws, room: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A hall (55 %), walls under a sky (15 %), or open ground."""
    height = draws.uniform(low=2.4, high=4.0)
    kind = draws.choice([0.55, 0.15, 0.30])
    room = np.where((kind == 2)[:, None], 14.0, room)
    height = np.where(kind == 2, 12.0, height)
    half = np.concatenate([room, height[:, None] / 2.0], -1)
    centre = np.stack([0.0 * height, 0.0 * height, height / 2.0], -1)
    visible = np.ones((draws.batch, 6), bool)
    visible[:, 5] = kind == 0
    visible[:, :4] = (kind < 2)[:, None]
    return centre, half, visible


def _put_table(
    draws: Draws, bodies: Bodies, present: np.ndarray, top: np.ndarray, radius: np.ndarray
) -> None:
    is_round = draws.chance(0.3)
    wide = radius[:, None] * draws.uniform(2, low=1.0, high=1.6)
    thick = draws.uniform(low=0.012, high=0.03)
    half = np.stack([wide[:, 0], np.where(is_round, wide[:, 0], wide[:, 1]), thick], -1)
    centre = np.stack([0.0 * top, 0.0 * top, top - thick], -1)
    form = np.where(is_round, CYLINDER, BOX)
    bodies.put(
        slice(0, 1), centre[:, None], half[:, None], form=form[:, None], present=present[:, None]
    )
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float64)
    inset = np.where(is_round, 0.6, 0.9)[:, None, None]
    leg = draws.uniform(low=0.012, high=0.035)[:, None]
    rise = np.maximum(top / 2.0 - thick, 0.01)[:, None] * np.ones(4)
    feet = np.concatenate([inset * signs * half[:, None, :2], rise[..., None]], -1)
    size = np.stack([leg * np.ones(4), leg * np.ones(4), rise], -1)
    form = np.where(draws.chance(0.5), CYLINDER, BOX)[:, None]
    bodies.put(slice(1, 5), feet, size, form=form, present=present[:, None])


def _stand(bodies: Bodies, slots: slice, ground: np.ndarray) -> None:
    """Lift the bodies of `slots` until they stand on `ground` [B]."""
    reach = bodies.reach()[:, slots, 2]
    present = bodies.is_present()[:, slots]
    height = np.where(present, ground[:, None] + reach, bodies.centre[:, slots, 2])
    bodies.centre[:, slots, 2] = height


def _put_clutter(draws: Draws, bodies: Bodies, top: np.ndarray, radius: np.ndarray) -> None:
    count = 16
    big = draws.uniform(1, low=0.7, high=1.35)
    size = radius[:, None] * big * draws.log_uniform(count, low=0.08, high=0.34)
    form, half = random_forms(draws, count, size)
    angle = draws.uniform(count, high=2.0 * np.pi)
    away = radius[:, None] * 0.95 * np.sqrt(draws.uniform(count))
    centre = np.stack([away * np.cos(angle), away * np.sin(angle), 0.0 * away], -1)
    present = np.arange(count) < draws.integers(high=13)[:, None] + 4
    bodies.put(
        _CLUTTER, centre, half, form=form, rotation=random_turns(draws, count, 0.3),
        top=draws.uniform(count, low=0.0, high=0.9), present=present,
    )  # fmt: skip
    random_cuts(draws, bodies, _CLUTTER, 0.4)
    _stand(bodies, _CLUTTER, top)


def _put_stack(draws: Draws, bodies: Bodies, top: np.ndarray, radius: np.ndarray) -> None:
    """Books, boxes or plates, one on the other."""
    present = draws.chance(0.55)[:, None] & (np.arange(4) < draws.integers(high=3)[:, None] + 2)
    place = radius[:, None] * draws.uniform(2, low=-0.6, high=0.6)
    thick = radius[:, None] * draws.uniform(4, low=0.02, high=0.13)
    wide = radius[:, None] * draws.uniform(4, low=0.12, high=0.3)
    long = wide * draws.uniform(4, low=0.8, high=1.5)
    height = top[:, None] + np.cumsum(2.0 * thick, 1) - thick
    where = np.repeat(place[:, None], 4, 1) + 0.03 * draws.normal(4, 2)
    centre = np.concatenate([where, height[..., None]], -1)
    form = np.where(draws.chance(0.75), BOX, CYLINDER)[:, None]
    bodies.put(
        _STACK, centre, np.stack([wide, long, thick], -1), form=form,
        rotation=random_turns(draws, 4, 0.0), present=present,
    )  # fmt: skip


def _put_lamp(draws: Draws, bodies: Bodies, top: np.ndarray, radius: np.ndarray) -> None:
    """A foot, a thin rod and a shade."""
    present = draws.chance(0.35)[:, None]
    place = radius[:, None] * draws.uniform(2, low=-0.8, high=0.8)
    tall = radius * draws.uniform(low=0.25, high=0.6)
    wide = radius * draws.uniform(low=0.1, high=0.22)
    thin = np.full(len(top), 0.008)
    z = np.stack([top + 0.012, top + tall, top + 2.0 * tall], -1)
    centre = np.concatenate([np.repeat(place[:, None], 3, 1), z[..., None]], -1)
    half = np.stack(
        [
            np.stack([wide * 0.8, wide * 0.8, 0.0 * wide + 0.012], -1),
            np.stack([thin, thin, tall], -1),
            np.stack([wide, wide, wide * 0.7], -1),
        ],
        1,
    )
    form = np.array([CYLINDER, CYLINDER, FRUSTUM])
    bodies.put(_LAMP, centre, half, form=form, top=0.5, present=present)


def _put_backdrop(draws: Draws, bodies: Bodies, room: np.ndarray) -> None:
    """Large things further off: cupboards, columns, boulders."""
    count = 4
    size = draws.log_uniform(count, low=0.25, high=0.9)
    form, half = random_forms(draws, count, size)
    angle = draws.uniform(count, high=2.0 * np.pi)
    away = np.minimum(room.min(-1)[:, None] - 0.3, draws.uniform(count, low=2.0, high=4.0))
    centre = np.stack([away * np.cos(angle), away * np.sin(angle), 0.0 * away], -1)
    present = draws.chance(0.6, count)
    bodies.put(
        _BACKDROP,
        centre,
        half,
        form=form,
        rotation=random_turns(draws, count, 0.0),
        present=present,
    )
    _stand(bodies, _BACKDROP, np.zeros(draws.batch))


def _materials(draws: Draws) -> np.ndarray:
    pixel = np.full(draws.batch, _PIXEL_M)
    far = np.full(draws.batch, 3.0 * _PIXEL_M)
    bodies = draw_materials(draws, 2 * BODIES, "object", pixel)
    timber = draw_materials(draws, 2, "timber", pixel)
    # table tops are mostly wood: the top slab and the legs
    is_timber = draws.chance(0.5)[:, None, None]
    bodies[:, 0:2] = np.where(is_timber, timber, bodies[:, 0:2])
    bodies[:, 2:10] = np.where(is_timber, timber[:, :1], bodies[:, 2:10])
    wall = np.repeat(draw_materials(draws, 1, "wall", far, (2.0, 24.0)), 4, 1)
    other = draw_materials(draws, 4, "wall", far, (2.0, 24.0))
    wall = np.where(draws.chance(0.4)[:, None, None], other, wall)
    floor = draw_materials(draws, 1, "floor", pixel, (2.5, 24.0))
    ceiling = draw_materials(draws, 1, "ceiling", far, (3.0, 24.0))
    relief = draw_materials(draws, 1, "object", pixel, (1.5, 24.0))
    sky = draw_materials(draws, 1, "sky", np.full(draws.batch, 0.3), (2.0, 30.0))
    return np.concatenate([bodies, wall, floor, ceiling, relief, sky], 1)
