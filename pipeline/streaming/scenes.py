"""A streamed scene opened again: model, state and cameras, from a run directory's snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from everview.datasets.captures import Scale
from everview.models.captured import answering
from everview.models.scene_model import SceneModel
from everview.models.state import SceneState
from everview.models.weight_files import WeightsError, load_model
from everview.pipeline.errors import EnvironmentUnfit, InputRejected
from everview.pipeline.rendering.renderer import Renderer, SceneRenderer
from everview.pipeline.rendering.survey import MOST_SURVEYED, Survey, survey
from everview.pipeline.runs import read_run
from everview.pipeline.streaming.committing import committing, written_by
from everview.pipeline.streaming.frame_tensors import under_prefix
from everview.pipeline.streaming.published import read_state, renderer_of
from everview.pipeline.streaming.segments.atlas import Atlas
from everview.pipeline.streaming.segments.policy import Segments
from everview.pipeline.streaming.segments.renderer import SegmentShelf
from everview.pipeline.streaming.segments.walk import restored_atlas
from everview.pipeline.streaming.snapshots import load_snapshot
from everview.pipeline.streaming.trajectory import Trajectory


@dataclass(frozen=True, eq=False)
class StreamedScene:
    """What rendering needs. state: the one that was written last; atlas, shelf: the segments.
    short_side: of the frames that were observed, pixels."""

    model: SceneModel
    state: SceneState
    atlas: Atlas
    shelf: SegmentShelf
    trajectory: Trajectory
    scale: Scale
    weights_name: str
    short_side: int

    def layout(self) -> Survey:
        """The survey of the observed cameras."""
        return survey_stream(self.trajectory, self.state)

    def renderer(self) -> Renderer:
        """Of all segments."""
        return renderer_of(SceneRenderer(self.model, self.state), self.atlas, self.shelf)


def open_scene(run: Path, weights: str | None = None, device: str = "auto") -> StreamedScene:
    """Open a run of `stream`. weights: where they are now, if not where the run found them.

    Raises InputRejected when the directory holds no usable snapshot or other weights wrote it.
    """
    record = read_run(run)
    if record is None or record.get("verb") != "stream":
        raise InputRejected(f"{run} is not a run of `everview stream`: there is no scene in it")
    snapshot = load_snapshot(run)
    if snapshot is None:
        raise InputRejected(f"{run} holds no snapshot yet: let its stream absorb a chunk first")
    name = weights or snapshot.facts["weights"]["name"]
    model = committing(open_model(name, device), written_by(snapshot.facts))
    trajectory = Trajectory.of_run(run, snapshot.facts["appended"])
    first = trajectory.first()
    assert first is not None  # no snapshot before the first chunk
    state = read_state(snapshot, model, name)
    assert state.gauge is not None
    held = under_prefix("segments", snapshot.frames)
    atlas = restored_atlas(run, snapshot.facts.get("segments"), held, state.gauge)
    return StreamedScene(
        model=model,
        state=state,
        atlas=atlas,
        shelf=SegmentShelf(run, model, Segments().on_device - 1, answering(model)),
        trajectory=trajectory,
        scale=snapshot.facts["scale"],
        weights_name=name,
        short_side=min(first.camera.width, first.camera.height),
    )


def survey_stream(trajectory: Trajectory, state: SceneState) -> Survey:
    """The layout of a stream; where its cameras share no focus, the gauge says how far it is."""
    assert state.gauge is not None
    distance = float(1 / state.gauge.scale[0])
    seen = trajectory.evenly(MOST_SURVEYED, is_held_out=False)
    return survey([each.camera for each in seen], [each.time_s for each in seen], distance)


def open_model(weights: str, device: str = "auto") -> SceneModel:
    """The model on its device. Raises InputRejected for weights, EnvironmentUnfit for devices."""
    place = choose_device(device)
    try:
        return load_model(weights).to(place)
    except WeightsError as error:
        raise InputRejected(str(error)) from error


def choose_device(name: str) -> torch.device:
    """auto: the GPU if there is one. Raises EnvironmentUnfit for a device that isn't there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EnvironmentUnfit(f"--device {name}: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentUnfit(f"--device {name}: this machine has no such GPU; use --device cpu")
    return device
