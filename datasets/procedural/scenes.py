"""Procedural scenes as values: a batch of tensors that a renderer needs, drawn from seeds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from everview.datasets.errors import DataError
from everview.datasets.procedural.bodies import Bodies
from everview.datasets.procedural.motion import Motion

BODIES = 32
# Rows of the material table: two per body, six walls of the shell, the relief, the sky.
SHELL_ROW = 2 * BODIES
RELIEF_ROW = SHELL_ROW + 6
SKY_ROW = RELIEF_ROW + 1
MATERIALS = SKY_ROW + 1
# Rows of the pose table: the bodies, the relief, the shell.
RELIEF_POSE = BODIES
SHELL_POSE = BODIES + 1

WORLDS = ("tabletop", "room", "orbit")


@dataclass(frozen=True, eq=False)
class SceneBatch:
    """B scenes of one world, float64 as drawn. World axes: z up, metres. N bodies, K materials.

    Poses carry the relief and the shell after the bodies, so [B, N + 2, ...]: centre, half_size,
    rotation, track. quadric, taper, cut_centre, cut_half, cut_quadric: [B, N, ...] as in `Bodies`.
    shell: a box seen from inside (the room, the hall, the ground); shell_visible [B, 6] bool per
    wall (-x, +x, -y, +y, -z, +z); a ray through an invisible wall sees the sky, at depth 0.
    relief: one height field per scene at most, the displaced surface of `relief.py`; relief_shape
    [B, 4] = power, amplitude, frequency, seed. has_relief: per scene, known to the host.
    materials [B, K, columns]. light_position [B, 3]; light_falloff [B] in 1/m^2; light,
    ambient_sky, ambient_ground, fill [B, 3] linear; fill_direction [B, 3]; has_shadow [B] 0 or 1.
    focus [B, 3], extent [B]: where cameras look and how far the content reaches, metres.
    """

    world: str
    seeds: tuple[int, ...]
    dynamic: bool
    has_relief: tuple[bool, ...]
    centre: Tensor
    half_size: Tensor
    rotation: Tensor
    track: Tensor
    quadric: Tensor
    taper: Tensor
    cut_centre: Tensor
    cut_half: Tensor
    cut_quadric: Tensor
    shell_visible: Tensor
    relief_shape: Tensor
    materials: Tensor
    light_position: Tensor
    light_falloff: Tensor
    light: Tensor
    ambient_sky: Tensor
    ambient_ground: Tensor
    fill: Tensor
    fill_direction: Tensor
    has_shadow: Tensor
    focus: Tensor
    extent: Tensor
    motion: Motion

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.centre.device

    def to(self, device: torch.device | str) -> SceneBatch:
        """The same scenes on a device (in one direction only: drawing happens on the CPU)."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor | Motion)
        }
        return replace(self, **moved)


def assemble(
    *,
    world: str,
    seeds: Sequence[int],
    dynamic: bool,
    bodies: Bodies,
    shell: tuple[np.ndarray, np.ndarray, np.ndarray],
    relief: dict[str, np.ndarray],
    look: dict[str, np.ndarray],
    motion: Motion,
) -> SceneBatch:
    """A batch from the arrays of a layout.

    shell: centre [B, 3], half size [B, 3], visible [B, 6]. relief: centre, half_size [B, 3],
    rotation [B, 3, 3], shape [B, 4], present [B]. look: materials, lights, focus and extent.
    """
    shell_centre, shell_half, shell_visible = shell
    eye = np.broadcast_to(np.eye(3), (len(seeds), 1, 3, 3))
    still = np.zeros((len(seeds), 2), np.int64)
    arrays = {
        "centre": np.concatenate(
            [bodies.centre, relief["centre"][:, None], shell_centre[:, None]], 1
        ),
        "half_size": np.concatenate(
            [bodies.half_size, relief["half_size"][:, None], shell_half[:, None]], 1
        ),
        "rotation": np.concatenate([bodies.rotation, relief["rotation"][:, None], eye], 1),
        "track": np.concatenate([bodies.track, still], 1),
        "quadric": bodies.quadric,
        "taper": bodies.taper,
        "cut_centre": bodies.cut_centre,
        "cut_half": bodies.cut_half,
        "cut_quadric": bodies.cut_quadric,
        "shell_visible": shell_visible,
        "relief_shape": relief["shape"],
        **look,
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    return SceneBatch(
        world=world,
        seeds=tuple(int(seed) for seed in seeds),
        dynamic=dynamic,
        has_relief=tuple(bool(p) for p in relief["present"]),
        motion=motion,
        **tensors,
    )


def _layouts() -> dict[str, Callable[[Sequence[int], bool], SceneBatch]]:
    # layouts import this module for `assemble`, so the table is made on first use
    from everview.datasets.procedural import orbit, room, tabletop

    return {"tabletop": tabletop.draw, "room": room.draw, "orbit": orbit.draw}


def draw_scenes(world: str, seeds: Sequence[int], dynamic: bool = False) -> SceneBatch:
    """Scenes of `world`, each a function of its own seed, on the CPU in float64.

    dynamic: up to four groups of bodies move. Raises DataError for an unknown world or no seeds.
    """
    if world not in WORLDS:
        near = difflib.get_close_matches(world, WORLDS, 1, 0.0)[0]
        raise DataError(f"no procedural world is called '{world}': did you mean '{near}'?")
    if len(seeds) == 0 or any(int(seed) < 0 for seed in seeds):
        raise DataError(f"procedural scenes need at least one seed, none negative, not {seeds!r}")
    return _layouts()[world](seeds, dynamic)
