"""Frames that a window has let go, kept in the bank for the queries that are near them.

Every layer with a window writes a few cells of a frame (`layers.sliding_window`). The bank keeps
them beside the frame's pixels, by coverage as these, so a state stays bounded: 64 frames are
2.1 MB a layer at the default width. A query then reads the cells of its nearest frames.

Shapes: B scenes, V views.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.config import WindowConfig
from everview.models.frame_bank import FrameBank, nearest_sources
from everview.models.layers.sliding_window import KeptCells, Nearest, WindowState


def taken(layers: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
    """The layers' states without the cells that have arrived; and these, as a bank keeps them: the
    `KeptCells` of each layer that has a window, in turn."""
    left, cells = [], list[Tensor]()
    for state in layers:
        if isinstance(state, WindowState) and state.arrived is not None:
            cells += state.arrived.kept()
            state = state._replace(arrived=None)
        left.append(state)
    return tuple(left), tuple(cells)


def with_nearest(
    layers: tuple[Any, ...],
    window: WindowConfig | None,
    cameras: Cameras,
    time_s: Tensor,
    frames: FrameBank | None,
    views_BV: Tensor | None = None,
) -> tuple[Any, ...]:
    """The layers' states for queries from `cameras` [B, V]: windows with the nearest of `frames`
    where those are more than a window's slots. views_BV: queries that know the bank (None: all).
    Frames without cells are those that the same run takes in."""
    if window is None or frames is None or frames.size <= window.slots:
        return layers
    places = nearest_sources(cameras, time_s, frames, window.slots)[0]
    kept = iter(frames.cells)

    def near(state: Any) -> Any:
        if not isinstance(state, WindowState):
            return state
        cells = KeptCells(*islice(kept, len(KeptCells._fields))) if frames.cells else None
        return state._replace(nearest=Nearest(places, views_BV, cells))

    return tuple(near(state) for state in layers)
