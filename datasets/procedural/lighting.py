"""Light: an ambient sky and ground, a key light with or without hard shadows, a weak fill."""

from __future__ import annotations

import numpy as np

from everview.datasets.procedural.draws import Draws


def draw_lights(
    draws: Draws,
    position: np.ndarray,
    *,
    flat: float,
    shadow: float,
    falloff: np.ndarray | float = 0.0,
) -> dict[str, np.ndarray]:
    """The light fields of a SceneBatch.

    position [B, 3]: of the key light (metres; far away for a sun). flat: probability of unlit
    scenes, whose surfaces show their own colour. shadow: probability of hard shadows otherwise.
    """
    batch = draws.batch
    is_flat = draws.chance(flat)[:, None]
    warmth = draws.uniform(1, low=-0.14, high=0.14) * np.array([1.0, 0.1, -1.0])
    key = draws.uniform(1, low=0.45, high=1.15) * (1.0 + warmth)
    sky = draws.uniform(1, low=0.28, high=0.62) * (1.0 - 0.8 * warmth)
    ground = sky * draws.uniform(1, low=0.35, high=0.9)
    fill = draws.uniform(1, low=0.0, high=0.25) * np.ones(3)
    return {
        "light_position": position,
        "light_falloff": np.broadcast_to(np.asarray(falloff, np.float64), (batch,)).copy(),
        "light": np.where(is_flat, 0.0, key),
        "ambient_sky": np.where(is_flat, 1.0, sky),
        "ambient_ground": np.where(is_flat, 1.0, ground),
        "fill": np.where(is_flat, 0.0, fill),
        "fill_direction": draws.directions(),
        "has_shadow": (draws.chance(shadow) & ~is_flat[:, 0]).astype(np.float64),
    }


def sun_position(draws: Draws, focus: np.ndarray, distance_m: float) -> np.ndarray:
    """[B, 3] above the horizon (15 to 80 degrees), `distance_m` from `focus`."""
    azimuth = draws.uniform(high=2.0 * np.pi)
    elevation = draws.uniform(low=np.radians(25.0), high=np.radians(80.0))
    flat = np.cos(elevation)
    direction = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], -1)
    return focus + distance_m * direction
