"""Pictures of an evaluation: rendered, truth, error, memory alone, nearest input, depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from everview.pipeline.evaluation.error_map import error_picture
from everview.pipeline.evaluation.scene_scores import SceneScores
from everview.pipeline.rendering.stills import colourise_depth, write_image


def write_pictures(run: Path, scores: SceneScores, most: int, prefix: str = "") -> None:
    """`views/[PREFIX-]NNNNN_{rendered,truth,error,memory,nearest}.png` and `depth/..._colour.png`
    for at most `most` targets, evenly taken."""
    frames = scores.scene.frames
    count = len(scores.views)
    for place in np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)):
        view, target = scores.views[place], frames[scores.split.targets[place]]
        name = f"{prefix}{'-' if prefix else ''}{target.index:05d}"
        pictures = {
            "rendered": view.image,
            "truth": target.image,
            "error": error_picture(view.image, target.image),
            "memory": view.memory_image,
            "nearest": frames[scores.floors.nearest[place]].image,
        }
        (run / "views").mkdir(exist_ok=True)
        for kind, picture in pictures.items():
            if picture is not None:
                write_image(run / "views" / f"{name}_{kind}.png", picture)
        (run / "depth").mkdir(exist_ok=True)
        write_image(run / "depth" / f"{name}_colour.png", colourise_depth(view.depth))
