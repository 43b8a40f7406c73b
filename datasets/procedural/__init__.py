"""Procedural scenes: drawn from seeds, ray-cast in torch with exact depth, on any device."""

from everview.datasets.procedural.capture import ProceduralCapture, open_procedural
from everview.datasets.procedural.episodes import render_episode_views
from everview.datasets.procedural.left_out import SCENE_FEATURES, leave_out
from everview.datasets.procedural.rendering import RenderedViews, render_views
from everview.datasets.procedural.scenes import WORLDS, SceneBatch, draw_scenes
from everview.datasets.procedural.trajectories import FRAMES_PER_S, draw_cameras

__all__ = [
    "FRAMES_PER_S",
    "SCENE_FEATURES",
    "WORLDS",
    "ProceduralCapture",
    "RenderedViews",
    "SceneBatch",
    "draw_cameras",
    "draw_scenes",
    "leave_out",
    "open_procedural",
    "render_episode_views",
    "render_views",
]
