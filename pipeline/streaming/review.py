"""After the stream: a second, lazy pass over the capture compares, frame by frame.

Held-out frames are rendered and measured, some are kept as pictures. Nothing is collected: memory
doesn't grow with the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everview.datasets.captures import Frame, Scale
from everview.pipeline.evaluation.depth_metrics import alignment_of, depth_abs_rel
from everview.pipeline.evaluation.error_map import error_picture
from everview.pipeline.evaluation.image_metrics import score_images
from everview.pipeline.evaluation.lpips_alex import LpipsAlex
from everview.pipeline.rendering.asked import RenderedView
from everview.pipeline.rendering.renderer import Renderer
from everview.pipeline.rendering.stills import DepthFolder, write_image

_SCORES = ("psnr", "ssim", "lpips_alex", "laplacian_ratio")


@dataclass
class HeldOutReview:
    """Scores of held-out frames, and pictures of some under views/ and depth/.

    beside: for each frame of `shown`, the observed frame that is shown with it, the nearest.
    rows: for frames.parquet. memory_rows: the scores of the memory without the frame bank.
    """

    renderer: Renderer
    out: Path
    scale: Scale
    shown: frozenset[int]
    lpips: LpipsAlex | None
    beside: Mapping[int, int] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    memory_rows: list[dict[str, Any]] = field(default_factory=list)
    _depth: DepthFolder | None = None

    def add(self, frame: Frame) -> None:
        """Render a held-out frame's camera and compare; frame: as resized for the model."""
        assert frame.camera is not None
        views = self.renderer.render([frame.camera], [frame.time_s], with_memory=True)
        view = next(views)
        assert view.memory_image is not None
        row = {"id": frame.index, "name": frame.name, "role": "held_out", "time_s": frame.time_s}
        scores = self.scores(view.image, frame) | self._depth_score(view, frame)
        self.rows.append(row | scores)
        self.memory_rows.append(self.scores(view.memory_image, frame))
        if frame.index in self.shown:
            self._show(frame, view)

    def add_observed(self, frame: Frame) -> None:
        """Keep the picture of an observed frame wherever it is the nearest; as resized."""
        for index, nearest in self.beside.items():
            if nearest == frame.index:
                write_image(self.out / "views" / f"{index:05d}_nearest.png", frame.image)

    def means(self) -> dict[str, float | None]:
        """Mean over the frames of every score."""
        return {name: mean_of(self.rows, name) for name in (*_SCORES, "depth_abs_rel")}

    def memory_means(self) -> dict[str, float | None]:
        """The same for the pictures of the memory alone."""
        return {name: mean_of(self.memory_rows, name) for name in _SCORES}

    @property
    def alignment(self) -> str:
        """How predicted depth was aligned before it was measured."""
        return alignment_of(self.scale)

    def scores(self, image: np.ndarray, frame: Frame) -> dict[str, float | None]:
        """Scores of a picture [H, W, 3] of 0 to 255 against a frame as resized."""
        pair = (_tensor(image), _tensor(frame.image))
        mask = None if frame.mask is None else torch.from_numpy(frame.mask.copy())[None]
        return score_images(*pair, lpips=self.lpips, mask=mask).rows()[0]

    def _depth_score(self, view: RenderedView, frame: Frame) -> dict[str, float | None]:
        if frame.depth is None or not (frame.depth > 0).any():
            return {"depth_abs_rel": None}
        pair = (torch.from_numpy(view.depth)[None], torch.from_numpy(frame.depth.copy())[None])
        return {"depth_abs_rel": depth_abs_rel(*pair, alignment_of(self.scale)).item()}

    def _show(self, frame: Frame, view: RenderedView) -> None:
        name = f"{frame.index:05d}"
        write_image(self.out / "views" / f"{name}_truth.png", frame.image)
        write_image(self.out / "views" / f"{name}_rendered.png", view.image)
        write_image(self.out / "views" / f"{name}_memory.png", view.memory_image)
        error = error_picture(view.image, frame.image)
        write_image(self.out / "views" / f"{name}_error.png", error)
        if self._depth is None:
            self._depth = DepthFolder(self.out / "depth", self.scale, 4 * float(view.depth.max()))
        self._depth.write(name, view.depth, view.confidence)


def evenly(indices: Sequence[int] | np.ndarray, most: int) -> list[int]:
    """At most `most` of the indices, evenly taken, the first and the last among them."""
    places = np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int)
    return [int(indices[place]) for place in np.unique(places)]


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The mean of a score over the rows that have it; None if none has."""
    values = [row[name] for row in rows if row[name] is not None and np.isfinite(row[name])]
    return float(np.mean(values)) if values else None
