"""Drawing the one height field a scene may have; `relief.py` meets it with rays."""

from __future__ import annotations

import numpy as np

from everview.datasets.procedural.draws import Draws


def draw_relief(
    draws: Draws, centre: np.ndarray, radius: np.ndarray | float, present: np.ndarray
) -> dict[str, np.ndarray]:
    """A displaced ball or box about `centre` [B, 3] of half sizes near `radius` (metres).

    In its own frame the surface is  |p|_power = 1 - amplitude (1 - noise(frequency p)).
    """
    size = np.broadcast_to(np.asarray(radius, np.float64), (draws.batch,))[:, None]
    half = size * draws.log_uniform(3, low=0.7, high=1.25)
    is_fine = draws.chance(0.4)
    frequency = np.where(
        is_fine, draws.uniform(low=4.0, high=9.0), draws.uniform(low=1.5, high=4.0)
    )
    amplitude = draws.uniform(low=0.15, high=0.6) / np.sqrt(frequency)
    power = np.where(draws.chance(0.6), 2.0, draws.uniform(low=3.0, high=8.0))
    seed = draws.integers(high=1 << 20).astype(np.float64)
    shape = np.stack([power, amplitude, frequency, seed], -1)
    return {
        "centre": centre,
        "half_size": half,
        "rotation": draws.rotations(),
        "shape": shape,
        "present": present,
    }
