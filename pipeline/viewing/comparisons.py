"""Held-out frames of a finished run: the truth beside what was rendered there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from everview.pipeline.report.contents import PictureSet, read_contents
from everview.pipeline.report.embedding import Budget, load_picture

if TYPE_CHECKING:
    from viser import ViserServer

_KINDS = ("truth", "rendered", "memory")
_GAP_PX = 4
_LONGEST_PX = 256


class Comparisons:
    """A folder with a slider over the held-out frames; pictures are read when they are shown."""

    def __init__(self, server: ViserServer, run: Path):
        views = [view for view in read_contents(run).views if "truth" in view.files]
        if not views:
            return
        with server.gui.add_folder("held-out frames"):
            chosen = server.gui.add_slider("which", 0, max(len(views) - 1, 1), 1, 0)
            shown = server.gui.add_image(side_by_side(views[0]))
            says = server.gui.add_html(_caption(views[0]))

        @chosen.on_update
        def _(_: object) -> None:
            view = views[min(int(chosen.value), len(views) - 1)]
            shown.image = side_by_side(view)
            says.content = _caption(view)


def side_by_side(view: PictureSet) -> np.ndarray:
    """Truth, rendered and what the memory alone gives, as far as they can be read: [H, W, 3]."""
    budget = Budget()
    files = [view.files[kind] for kind in _KINDS if kind in view.files]
    pictures = [load_picture(file, budget, _LONGEST_PX) for file in files]
    known = [picture for picture in pictures if picture is not None]
    if not known:
        return np.full((8, 8, 3), 128, np.uint8)
    height = min(len(picture) for picture in known)
    gap = np.full((height, _GAP_PX, 3), 255, np.uint8)
    parts = [part for picture in known for part in (picture[:height], gap)]
    return np.concatenate(parts[:-1], axis=1)


def _caption(view: PictureSet) -> str:
    """Numbers only: a frame's name is anybody's text."""
    kinds = " | ".join(kind for kind in _KINDS if kind in view.files)
    row = view.row or {}
    scores = ""
    if isinstance(row.get("id"), int) and isinstance(row.get("psnr"), float):
        scores = f"<br>frame {row['id']}: {row['psnr']:.2f} dB"
    return f"<div style='font-size:0.8em;padding:0 0.8em'>{kinds}{scores}</div>"
