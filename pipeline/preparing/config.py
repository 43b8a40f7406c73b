"""What `everview prepare` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from everview.pipeline.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Sources and how they become shards."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """captures (folder, transforms.json, COLMAP, video, procedural://...), meshes (GLB, OBJ, PLY,
    YCB npz), and folders of either"""
    to: Annotated[str | None, tyro.conf.arg(metavar="PLACE")] = None
    """where the shards go, a path or URL (s3://, gs://); without it into --out itself"""
    size: int = 256
    """short side of the pictures in pixels; square, cut from the middle, unless --full-aspect"""
    full_aspect: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """keep the aspect of the first capture for the whole set, sides rounded to 8 pixels; pictures
    of another aspect are cut from the middle"""
    every: int = 1
    """of a capture, take every n-th frame"""
    scene_views: int = 64
    """most views of a scene: a longer capture is cut into consecutive scenes, which share its world
    (the last two share evenly what is left)"""
    views: int = 32
    """views rendered of a mesh under each light"""
    lights: int = 2
    """lights a mesh is rendered under: 1 is its own colours, each further one a random sun"""
    poses: Literal["given", "sfm"] = "given"
    """sfm: find the poses from the pictures (pycolmap, on the CPU); the scale is then up_to_scale,
    and given poses and depth are left out"""
    min_registered: float = 0.7
    """of `--poses sfm`: a capture with a smaller share of its frames registered is refused"""
    split: Literal["training", "held_out"] | None = None
    """of the sorted names in a folder every 8th is held out: which to prepare. Without it YCB
    folders give their training split and others everything"""
    licence: str | None = None
    """licence of all sources, in words; without it what they state themselves, or `unknown`"""
    image_format: Literal["webp", "png"] = "webp"
    """png is lossless"""
    quality: int = 92
    """of webp, 1 to 100"""
    seed: int = 0
    """of cameras and lights around meshes"""

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("name at least one SOURCE: a capture, a mesh, or a folder of them")
        for name in ("size", "every", "scene_views", "views", "lights", "quality"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} {getattr(self, name)}: at least 1")
        if not 0 < self.min_registered <= 1:
            raise UsageError(f"--min-registered {self.min_registered}: above 0, at most 1")
        if self.size > 2048 or self.quality > 100:
            raise UsageError("--size is at most 2048, --quality at most 100")
