"""The `orbit` world: one object in the middle of white, like a scanned toy.

Four ways to make an object: a compound of one to nine large primitives with boolean cuts
(as LRM-Zero's Zeroverse, arXiv:2406.09371), a construction toy of many small parts on a frame of
bars, a wire frame of thin rods, and a displaced body (height field) with a few attachments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from everview.datasets.procedural.bodies import (
    BOX,
    CYLINDER,
    FRUSTUM,
    ROUNDED,
    Bodies,
    random_cuts,
    random_forms,
    random_turns,
)
from everview.datasets.procedural.draws import AXIS_FRAMES, Draws, rotation_about_z
from everview.datasets.procedural.lighting import draw_lights, sun_position
from everview.datasets.procedural.materials import draw_materials, plain
from everview.datasets.procedural.motion import TRACKS, draw_motion
from everview.datasets.procedural.reliefs import draw_relief
from everview.datasets.procedural.scenes import BODIES, SceneBatch, assemble

_RADIUS = 0.95
_PIXEL_M = 0.02
_ALL = slice(0, BODIES)


def draw(seeds: Sequence[int], dynamic: bool) -> SceneBatch:
    """Orbit scenes; see `scenes.draw_scenes`."""
    draws = Draws(seeds, purpose=11, columns=9000)
    kind = draws.choice([0.38, 0.34, 0.08, 0.20])
    parts = [_compound(draws), _toy(draws), _wires(draws), _attachments(draws)]
    bodies = _pick(parts, kind)
    has_relief = kind == 3
    _normalise(bodies, has_relief)
    relief = draw_relief(draws, np.full((len(seeds), 3), 0.0), 0.62 * _RADIUS, has_relief)

    pivots = bodies.centre[:, :TRACKS].copy()
    moving = draws.integers(high=TRACKS)[:, None] + 1
    group = draws.integers(BODIES, high=8) + 1
    bodies.track = np.where((group <= moving) & dynamic, group, 0)
    pivots = np.where(np.abs(pivots) < 2.0, pivots, 0.0)
    motion = draw_motion(draws, pivots, np.full(len(seeds), 0.16), dynamic)

    position = sun_position(draws, np.zeros((len(seeds), 3)), 12.0)
    look = draw_lights(draws, position, flat=0.35, shadow=0.35)
    look["materials"] = _materials(draws, kind)
    look["focus"] = np.zeros((len(seeds), 3))
    look["extent"] = np.full(len(seeds), _RADIUS)
    shell = (
        np.zeros((len(seeds), 3)),
        np.full((len(seeds), 3), 50.0),
        np.zeros((len(seeds), 6), bool),
    )
    return assemble(
        world="orbit", seeds=seeds, dynamic=dynamic, bodies=bodies, shell=shell,
        relief=relief, look=look, motion=motion,
    )  # fmt: skip


def _pick(parts: list[Bodies], kind: np.ndarray) -> Bodies:
    """Row b of the result is row b of parts[kind[b]]."""
    rows = np.arange(len(kind))
    names = parts[0].__dataclass_fields__
    return Bodies(**{n: np.stack([getattr(p, n) for p in parts])[kind, rows] for n in names})


def _compound(draws: Draws) -> Bodies:
    """One to nine large primitives about the middle, some of them cut."""
    bodies = Bodies.empty(draws.batch, BODIES)
    slots = slice(0, 9)
    size = draws.uniform(9, low=0.28, high=0.62)
    form, half = random_forms(draws, 9, size)
    count = draws.integers(high=9)[:, None] + 1
    centre = draws.directions(9) * draws.uniform(9, 1, high=0.62)
    centre[:, 0] *= 0.2
    turns = random_turns(draws, 9, 0.6)
    top = draws.uniform(9, high=0.8)
    bodies.put(
        slots, centre, half, form=form, rotation=turns, top=top, present=np.arange(9) < count
    )
    random_cuts(draws, bodies, slots, 0.55)
    return bodies


def _toy(draws: Draws) -> Bodies:
    """Bars end to end along the axes, with holes, and studs, wheels and blocks fixed to them."""
    bodies = Bodies.empty(draws.batch, BODIES)
    bars = slice(0, 8)
    axis = draws.integers(8, high=3)
    length = draws.uniform(8, low=0.22, high=0.6)
    thick = draws.uniform(1, low=0.05, high=0.12) * draws.uniform(8, low=0.8, high=1.3)
    flat = draws.uniform(8, low=0.25, high=1.0)
    direction = np.eye(3)[axis] * np.sign(draws.uniform(8, 1, low=-1.0, high=1.0))
    # every bar starts on an earlier one
    centre = np.zeros((draws.batch, 8, 3))
    where = draws.uniform(8, low=-0.9, high=0.9)
    for k in range(1, 8):
        parent = draws.integers(high=k)
        rows = np.arange(draws.batch)
        along = np.eye(3)[axis[rows, parent]] * (where[:, k] * length[rows, parent])[:, None]
        reach = 0.8 * length[:, k, None] * direction[:, k]
        centre[:, k] = centre[rows, parent] + along + reach
    present = np.arange(8) < draws.integers(high=6)[:, None] + 3
    half = np.stack([thick, thick * flat, length], -1)
    form = draws.choice([0.7, 0.0, 0.25, 0.05], 8)
    bodies.put(bars, centre, half, form=form, rotation=AXIS_FRAMES[axis], present=present)
    random_cuts(draws, bodies, bars, 0.35)

    studs = slice(8, BODIES)
    number = BODIES - 8
    host = draws.integers(number, high=3)
    rows = np.arange(draws.batch)[:, None]
    side = draws.integers(number, high=3)
    normal = np.eye(3)[side] * np.sign(draws.uniform(number, 1, low=-1.0, high=1.0))
    spot = draws.uniform(number, low=-0.95, high=0.95) * length[rows, host]
    on_bar = centre[rows, host] + np.eye(3)[axis[rows, host]] * spot[..., None]
    is_wheel = draws.chance(0.3, number)
    radius = np.where(is_wheel, draws.uniform(number, low=0.1, high=0.2), 0.0)
    radius = np.where(is_wheel, radius, draws.uniform(number, low=0.05, high=0.12))
    height = draws.uniform(number, low=0.03, high=0.12)
    lift = thick[rows, host] + 0.6 * height
    form = np.array([CYLINDER, BOX, FRUSTUM, ROUNDED])[draws.integers(number, high=4)]
    form = np.where(is_wheel, CYLINDER, form)
    present = draws.chance(draws.uniform(1, low=0.4, high=1.0), number)
    bodies.put(
        studs,
        on_bar + normal * lift[..., None],
        np.stack([radius, radius, height], -1),
        form=form,
        rotation=AXIS_FRAMES[side],
        present=present,
    )
    random_cuts(draws, bodies, studs, 0.25)
    tilt = draws.rotations() @ rotation_about_z(draws.uniform(high=6.28))
    tilt = np.where(draws.chance(0.3)[:, None, None], tilt, np.eye(3))
    # absent bodies stay where they are: turned with the others they would count as present ones
    tilted = np.einsum("bij,bnj->bni", tilt, bodies.centre)
    bodies.centre = np.where(bodies.is_present()[..., None], tilted, bodies.centre)
    bodies.rotation = tilt[:, None] @ bodies.rotation
    return bodies


def _wires(draws: Draws) -> Bodies:
    """A cage of thin rods about a few solid bodies."""
    bodies = Bodies.empty(draws.batch, BODIES)
    rods, solids = slice(0, 20), slice(20, 24)
    thin = draws.uniform(20, low=0.015, high=0.04)
    half = np.stack([thin, thin, draws.uniform(20, low=0.3, high=0.75)], -1)
    present = np.arange(20) < draws.integers(high=14)[:, None] + 7
    centre = draws.directions(20) * draws.uniform(20, 1, high=0.45)
    bodies.put(rods, centre, half, form=CYLINDER, rotation=draws.rotations(20), present=present)
    form, half = random_forms(draws, 4, draws.uniform(4, low=0.15, high=0.35))
    bodies.put(solids, draws.directions(4) * 0.4, half, form=form, rotation=draws.rotations(4))
    return bodies


def _attachments(draws: Draws) -> Bodies:
    """Up to five small primitives stuck on a body of radius 0.6 (the relief)."""
    bodies = Bodies.empty(draws.batch, BODIES)
    form, half = random_forms(draws, 5, draws.uniform(5, low=0.12, high=0.3))
    centre = draws.directions(5) * draws.uniform(5, 1, low=0.5, high=0.7)
    present = np.arange(5) < draws.integers(high=6)[:, None]
    bodies.put(slice(0, 5), centre, half, form=form, rotation=draws.rotations(5), present=present)
    return bodies


def _normalise(bodies: Bodies, is_fixed: np.ndarray) -> None:
    """Centre and scale each object to the radius _RADIUS (except those about a relief)."""
    present = bodies.is_present()[..., None]
    reach = bodies.reach()
    low = np.where(present, bodies.centre - reach, np.inf).min(1)
    high = np.where(present, bodies.centre + reach, -np.inf).max(1)
    low, high = np.where(np.isfinite(low), low, -1.0), np.where(np.isfinite(high), high, 1.0)
    middle, scale = (low + high) / 2.0, _RADIUS / (np.linalg.norm(high - low, axis=-1) / 2.0)
    middle = np.where(is_fixed[:, None], 0.0, middle)
    scale = np.where(is_fixed, 1.0, np.minimum(scale * 1.15, 3.0))[:, None, None]
    bodies.centre = np.where(present, (bodies.centre - middle[:, None]) * scale, bodies.centre)
    bodies.half_size = np.where(present, bodies.half_size * scale, bodies.half_size)


def _materials(draws: Draws, kind: np.ndarray) -> np.ndarray:
    """Own looks per body; a construction toy repeats a few plain colours."""
    pixel = np.full(draws.batch, _PIXEL_M)
    busy = draw_materials(draws, 2 * BODIES, "object", pixel)
    toy = draw_materials(draws, 6, "toy", pixel)
    of_bar = draws.integers(1, high=6) * np.ones((1, 16), np.int64)
    pick = np.concatenate([of_bar, draws.integers(2 * BODIES - 16, high=6)], 1)
    repeated = toy[np.arange(draws.batch)[:, None], pick]
    bodies = np.where((kind == 1)[:, None, None], repeated, busy)
    shell = np.repeat(plain(draws.batch, (1.0, 1.0, 1.0)), 6, 1)
    relief = draw_materials(draws, 1, "object", pixel, (1.5, 24.0))
    sky = plain(draws.batch, (1.0, 1.0, 1.0))
    return np.concatenate([bodies, shell, relief, sky], 1)
