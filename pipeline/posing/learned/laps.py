"""How far poses drift from lap to lap of a camera that walks in circles, in the known poses' unit.

The error after one fit over the whole stream hides drift: the fit shares it out. Here the found
world is fitted to the known one (Umeyama) over the first lap alone, and stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from everview.pipeline.preparing.pose_errors import fit_similarity


@dataclass(frozen=True)
class Lap:
    """frames: of it with a found pose; rmse: of their centres, null without any; still_rmse: of a
    camera that stays in the middle of the lap."""

    frames: int
    rmse: float | None
    still_rmse: float


def lap_length(known: np.ndarray) -> int | None:
    """Frames until centres [N, 3] are back where they began; None when they never are.

    Back is nearest to the first centre, within a frame's step of it, after having been away.
    """
    apart = np.linalg.norm(known - known[:1], axis=1)
    step = float(np.median(np.linalg.norm(np.diff(known, axis=0), axis=1)))
    away = np.flatnonzero(apart > 0.5 * apart.max())
    if not len(away):
        return None
    for n in range(int(away[0]) + 1, len(apart) - 1):
        if apart[n] <= min(apart[n - 1], apart[n + 1]) and apart[n] < step:
            return n
    return None


def laps(found: np.ndarray, known: np.ndarray) -> list[Lap]:
    """Centres [N, 3] of a stream, NaN where a frame was lost. Whole laps, in order; none when the
    camera never comes back or the first lap tells no similarity."""
    length = lap_length(known)
    if length is None:
        return []
    posed = np.isfinite(found).all(1)
    first = posed[:length]
    try:
        scale, rotation, shift = fit_similarity(found[:length][first], known[:length][first])
    except ValueError:
        return []
    off = ((scale * found @ rotation.T + shift - known) ** 2).sum(1)
    told = []
    for start in range(0, len(known) - length + 1, length):
        at = slice(start, start + length)
        here = known[at]
        still = float(np.sqrt(((here - here.mean(0)) ** 2).sum(1).mean()))
        counted = off[at][posed[at]]
        rmse = float(np.sqrt(counted.mean())) if len(counted) else None
        told.append(Lap(len(counted), rmse, still))
    return told
