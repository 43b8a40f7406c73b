"""Scenes with some of their features taken away, to find out what training gains by each.

Nothing else in a seed's scene changes, so that data with and without a feature compare in pairs.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch

from everview.datasets.errors import DataError
from everview.datasets.procedural.bodies import AWAY
from everview.datasets.procedural.materials import COLUMN, KIND
from everview.datasets.procedural.scenes import SceneBatch


def leave_out(scenes: SceneBatch, features: Iterable[str]) -> SceneBatch:
    """The scenes without these of `SCENE_FEATURES`. Raises DataError for an unknown one."""
    for feature in features:
        if feature not in SCENE_FEATURES:
            near = difflib.get_close_matches(feature, SCENE_FEATURES, 1, 0.0)[0]
            raise DataError(f"scenes have no feature '{feature}': did you mean '{near}'?")
        scenes = SCENE_FEATURES[feature](scenes)
    return scenes


def _whole(scenes: SceneBatch) -> SceneBatch:
    """Every cutter taken away, as `Bodies.empty` has them."""
    return replace(
        scenes,
        cut_centre=torch.full_like(scenes.cut_centre, AWAY),
        cut_half=torch.ones_like(scenes.cut_half),
        cut_quadric=torch.zeros_like(scenes.cut_quadric),
    )


def _smooth(scenes: SceneBatch) -> SceneBatch:
    """Undisplaced reliefs: without its body an orbit scene could be empty."""
    power, _, frequency, seed = scenes.relief_shape.unbind(-1)
    shape = torch.stack([power, torch.zeros_like(power), frequency, seed], -1)
    return replace(scenes, relief_shape=shape)


def _plain(scenes: SceneBatch) -> SceneBatch:
    """Every surface, and the sky, of its first colour alone; as glossy as it was."""
    materials = scenes.materials.clone()
    materials[..., COLUMN["kind"]] = KIND["flat"]
    materials[..., COLUMN["grain"]] = 0
    return replace(scenes, materials=materials)


def _unlit(scenes: SceneBatch) -> SceneBatch:
    """Every surface shows its own colour: no key light, no shadows, no gloss."""
    none = torch.zeros_like(scenes.light)
    full = torch.ones_like(scenes.ambient_sky)
    return replace(
        scenes,
        light=none,
        fill=none,
        ambient_sky=full,
        ambient_ground=full,
        has_shadow=torch.zeros_like(scenes.has_shadow),
    )


SCENE_FEATURES: Mapping[str, Callable[[SceneBatch], SceneBatch]] = {
    "boolean_cuts": _whole,
    "height_fields": _smooth,
    "textures": _plain,
    "lights": _unlit,
}
