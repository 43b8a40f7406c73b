"""Pictures of an evaluation: rendered, truth, error, memory alone, nearest input, depth."""

from __future__ import annotations

import numpy as np

from everview.pipeline.evaluation.error_map import error_picture
from everview.pipeline.evaluation.scene_scores import SceneScores
from everview.pipeline.rendering.stills import colourise_depth, png_bytes


def draw_pictures(scores: SceneScores, most: int, prefix: str = "") -> dict[str, bytes]:
    """PNG files by their names in a run directory, for at most `most` targets, evenly taken:
    `views/[PREFIX-]NNNNN_{rendered,truth,error,memory,nearest}.png`, `depth/..._colour.png`."""
    frames = scores.scene.frames
    count = len(scores.views)
    files: dict[str, bytes] = {}
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
        for kind, picture in pictures.items():
            if picture is not None:
                files[f"views/{name}_{kind}.png"] = png_bytes(picture)
        files[f"depth/{name}_colour.png"] = png_bytes(colourise_depth(view.depth))
    return files
