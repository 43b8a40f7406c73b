"""What can be looked into while a stream runs: a state that never changes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from everview.datasets.captures import Scale
from everview.models.captured import Answer
from everview.models.scene_model import SceneModel
from everview.models.state import SceneState, StateError, state_from_tensors, to_device
from everview.pipeline.errors import InputRejected
from everview.pipeline.rendering.renderer import Renderer, SceneRenderer
from everview.pipeline.streaming.segments.atlas import Atlas
from everview.pipeline.streaming.segments.renderer import SegmentedRenderer, SegmentShelf
from everview.pipeline.streaming.snapshots import Snapshot


@dataclass(frozen=True)
class World:
    """What is known of the capture's world before its first frame, for the gauge.

    scale: its unit. points_world: sparse points float32 [N, 3], if the source has any.
    """

    scale: Scale = "up_to_scale"
    points_world: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Published:
    """What readers may use while the next chunk is absorbed: the state that is written, and the
    segments before it. Never changes."""

    model: SceneModel
    state: SceneState
    num_chunks: int
    answer: Answer
    atlas: Atlas
    shelf: SegmentShelf

    @cached_property
    def current(self) -> SceneRenderer:
        """Of the state that is written alone. Frozen when first looked at; two threads that come
        together freeze twice, harmlessly."""
        return SceneRenderer(self.model, self.state, self.answer)

    @cached_property
    def renderer(self) -> Renderer:
        """Of all segments."""
        return renderer_of(self.current, self.atlas, self.shelf)


def renderer_of(current: SceneRenderer, atlas: Atlas, shelf: SegmentShelf) -> Renderer:
    """Of a stream's last state and the segments before it."""
    return SegmentedRenderer(atlas, current, shelf) if atlas.archived else current


def read_state(snapshot: Snapshot, model: SceneModel, weights_name: str) -> SceneState:
    """The state in a snapshot, on the model's device. Raises InputRejected for other weights."""
    written = snapshot.facts["weights"]
    if written["fingerprint"] != model.fingerprint:
        raise InputRejected(
            f"the snapshot was written by weights {written['name']} "
            f"({written['fingerprint'][:12]}), not by {weights_name} ({model.fingerprint[:12]}): "
            "name those with --weights, or replay the capture with --fresh"
        )
    try:
        state = state_from_tensors(snapshot.state, snapshot.facts["state"], model.init_state(1))
    except StateError as error:
        raise InputRejected(f"the snapshot can't be used: {error}") from error
    return to_device(state, model.device)
