"""Surfaces while frames come: a few frames of each chunk become keyframes of the geometry.

Frames that stand apart from the keyframes are fused, at most `per_chunk` of a chunk. Depth is the
sensor's where the capture has one, else what the memory sees in the frame once it has learned it.
What the memory was sure of and did not find in the frame has moved, and is left out. The frames are
never read again, so a camera that was there once leaves points and a mesh like a file.

What moved shows in a picture that was drawn before its frame was learned. Foresight has drawn some
of each chunk for its own sake, so where things may move, in frames that have a time, only those are
candidates and the mask costs nothing: drawing more would take a tenth of an update each.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everview.datasets.cameras import Camera
from everview.datasets.captures import Frame
from everview.datasets.resampling import fitted_size, resize
from everview.pipeline.errors import EnvironmentUnfit, UsageError
from everview.pipeline.fusion.depth_views import voxel_size_for
from everview.pipeline.fusion.keyframes import Keyframe, Keyframes
from everview.pipeline.fusion.mesh import import_open3d
from everview.pipeline.fusion.moving_pixels import moving_pixels
from everview.pipeline.fusion.scene_geometry import GeometryReport, SceneGeometry
from everview.pipeline.rendering.asked import RenderedView
from everview.pipeline.rendering.renderer import Renderer
from everview.pipeline.streaming.frame_tensors import (
    frames_from_tensors,
    frames_to_tensors,
    under_prefix,
    with_prefix,
)

_MOST_SIDE = (
    256  # short side of a keyframe: larger frames are shrunk, finer voxels aren't asked for
)
_TRUSTED_SHARE = 0.7  # of a view's predicted pixels, the most confident


@dataclass(frozen=True)
class GeometryOptions:
    """views: keyframes at most. patch: of the model, pixels. per_chunk: keyframes of a chunk at
    most. has_mesh: also a mesh (Open3D). is_measured: depth comes with the frames. masks_moving:
    leave out what moved, of frames that have a time."""

    views: int
    patch: int
    per_chunk: int = 4
    has_mesh: bool = True
    is_measured: bool = False
    masks_moving: bool = True

    def __post_init__(self) -> None:
        if self.views < 1 or self.per_chunk < 1:
            raise UsageError(
                f"geometry of {self.views} views, {self.per_chunk} of a chunk: at least 1 of each"
            )


class LiveGeometry:
    """A stream's geometry so far; belongs to the session's thread."""

    def __init__(self, options: GeometryOptions):
        self.options = options
        if options.has_mesh:  # a second of importing, now rather than within the first chunk
            with suppress(EnvironmentUnfit):
                import_open3d()
        self.spent_s = 0.0
        self.moved_share = 0.0
        self._num_masked = 0
        self._scene: SceneGeometry | None = None
        self._is_shown = True

    def learn(
        self,
        chunk: Sequence[Frame],
        foreseen: Mapping[int, RenderedView],
        after: Renderer,
        scene_depth: float,
    ) -> None:
        """Fuse what is new of a chunk that was learned.

        foreseen: what was drawn of it before that, by place. after: of the state that has learned
        it. scene_depth: typical, in world units; that of the first call counts.
        """
        begin = time.monotonic()
        if self._scene is None:
            self._open(scene_depth)
        scene = self._scene
        assert scene is not None
        places = self._chosen(chunk, foreseen, scene.keyframes)
        for place in places:
            scene.add(self._keyframe(self._shrunk(chunk[place]), foreseen.get(place), after))
        self._is_shown &= not places
        self.spent_s += time.monotonic() - begin

    def show(self, out: Path) -> None:
        """Write out/points.ply if it has grown, for a page that looks in."""
        if self._scene is not None and not self._is_shown:
            self._scene.write_points(out)
            self._is_shown = True

    def write(self, out: Path) -> GeometryReport | None:
        """Write out/points.ply and out/mesh.ply; None before the first chunk."""
        return None if self._scene is None else self._scene.write(out)

    def _open(self, scene_depth: float) -> None:
        keyframes = Keyframes(self.options.views, scene_depth)
        voxel = voxel_size_for(scene_depth, self.options.is_measured)
        self._scene = SceneGeometry(keyframes, voxel, self.options.has_mesh)

    def _chosen(
        self, chunk: Sequence[Frame], foreseen: Mapping[int, RenderedView], known: Keyframes
    ) -> list[int]:
        """Places of the frames that become keyframes, in order."""
        most = min(self.options.per_chunk, len(chunk))
        spread = np.linspace(0, len(chunk) - 1, most).round().astype(int).tolist()
        order = list(dict.fromkeys([*foreseen, *spread, *range(len(chunk))]))
        if self.options.masks_moving and any(frame.time_s is not None for frame in chunk):
            most = min(most, max(1, len(foreseen)))
            order = list(foreseen) or order
        chosen: dict[int, Camera] = {}
        for place in order:
            frame = chunk[place]
            has_depth = frame.depth is not None and bool((frame.depth > 0).any())
            if self.options.is_measured and not has_depth:
                continue
            if known.is_apart(frame.camera, list(chosen.values())):
                chosen[place] = frame.camera
            if len(chosen) == most:
                break
        return sorted(chosen)

    def _shrunk(self, frame: Frame) -> Frame:
        height, width = frame.image.shape[:2]
        if min(height, width) <= _MOST_SIDE:
            return frame
        return resize(frame, *fitted_size(width, height, _MOST_SIDE, self.options.patch))

    def _keyframe(self, frame: Frame, expected: RenderedView | None, after: Renderer) -> Keyframe:
        if self.options.is_measured:
            depth = np.nan_to_num(frame.depth.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
            confidence = np.full(depth.shape, 255, np.uint8)
        else:
            seen = after.depth_of(frame.camera, frame.image, frame.time_s)
            limit = np.quantile(seen.confidence, 1 - _TRUSTED_SHARE)
            depth = np.where(seen.confidence >= limit, seen.depth, 0).astype(np.float32)
            confidence = np.clip(np.round(255 * seen.confidence), 1, 255).astype(np.uint8)
        if self.options.masks_moving and frame.time_s is not None and expected is not None:
            moved = moving_pixels(frame.image, expected.image, expected.confidence)
            depth[moved] = 0
            self._num_masked += 1
            self.moved_share += (float(moved.mean()) - self.moved_share) / self._num_masked
        frame = Frame(frame.index, frame.name, frame.image, frame.camera, frame.time_s, depth)
        return Keyframe(frame, confidence)

    # --- snapshots ---

    def keyframes(self) -> list[Keyframe]:
        """Those that the geometry is made of."""
        return [] if self._scene is None else list(self._scene.keyframes.items)

    def to_facts(self) -> dict[str, Any] | None:
        """For a snapshot, JSON-compatible; `to_tensors` has the keyframes. None: nothing yet."""
        scene = self._scene
        if scene is None:
            return None
        return {
            "options": asdict(self.options),
            "unit": scene.keyframes.unit,
            "spacing": scene.keyframes.spacing,
            "voxel_size": scene.voxel_size,
            "mesh_voxel_size": scene.mesh_voxel_size,
            "keyframes": len(scene.keyframes.items),
            "masked": self._num_masked,
            "moved_share": self.moved_share,
            "spent_s": self.spent_s,
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """The keyframes, one group each: their sizes may differ."""
        tensors: dict[str, Tensor] = {}
        for number, keyframe in enumerate(self.keyframes()):
            parts = frames_to_tensors([keyframe.frame])
            parts["confidence"] = torch.from_numpy(keyframe.confidence)
            tensors |= with_prefix(str(number), parts)
        return tensors

    def restore(self, facts: dict[str, Any] | None, tensors: dict[str, Tensor]) -> None:
        """Go on from `to_facts` and `to_tensors`: the voxels are made again from the keyframes."""
        if facts is None:
            return
        keyframes = Keyframes(self.options.views, facts["unit"], facts["spacing"])
        keyframes.items = keyframes_from_tensors(facts, tensors)
        self._scene = SceneGeometry(
            keyframes, facts["voxel_size"], self.options.has_mesh, facts["mesh_voxel_size"]
        )
        self._num_masked, self.moved_share = int(facts["masked"]), float(facts["moved_share"])
        self.spent_s = float(facts["spent_s"])
        self._is_shown = False


def keyframes_from_tensors(facts: dict[str, Any], tensors: dict[str, Tensor]) -> list[Keyframe]:
    """Those of a snapshot, in order."""
    made = []
    for number in range(int(facts["keyframes"])):
        parts = under_prefix(str(number), tensors)
        frame = next(iter(frames_from_tensors(parts)))
        made.append(Keyframe(frame, parts["confidence"].numpy()))
    return made
