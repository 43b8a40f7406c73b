"""Surfaces that grow with a session: the same after a kill, shown on the way, bounded."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from everview.models.weight_files import load_model
from everview.pipeline.errors import UsageError
from everview.pipeline.rendering.ply import read_ply
from everview.pipeline.streaming.live_geometry import GeometryOptions, LiveGeometry
from everview.pipeline.streaming.policies import StreamPolicies
from everview.pipeline.streaming.session import Session, World
from everview.pipeline.streaming.snapshots import load_snapshot


@pytest.fixture(scope="module")
def model(weights):
    return load_model(weights)


@pytest.fixture
def make(model, tmp_path):
    def build(name, **options):
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        geometry = LiveGeometry(
            GeometryOptions(**{"views": 64, "patch": 8, "has_mesh": False, **options})
        )
        policies = StreamPolicies(chunk_frames=4, retention_views=0)
        return Session(model, policies, out, World("metric"), geometry=geometry)

    return build


def with_depth(frames):
    """A ball of radius 1 around the point that is looked at, nearly."""
    return [replace(frame, depth=np.full((32, 32), 1.2, np.float32)) for frame in frames]


@pytest.mark.parametrize(
    "options",
    [
        {"is_measured": True, "per_chunk": 4, "masks_moving": True},
        {"is_measured": True, "per_chunk": 4, "views": 3, "has_mesh": True},
        {"is_measured": False, "per_chunk": 1, "masks_moving": True},
    ],
    ids=["measured", "thinned", "predicted"],
)
def test_killed_and_resumed_leaves_the_same_points_and_mesh(make, frames, options):
    if options.get("has_mesh"):
        pytest.importorskip(
            "open3d", reason="the mesh needs the extra `geometry`", exc_type=ImportError
        )
    every = with_depth(frames(15))
    whole = make("whole", **options)
    for frame in every:
        whole.push(frame)
    whole.finish()
    cut = make("cut", **options)
    for frame in every[:10]:
        cut.push(frame)
    cut.snapshot()
    again = make("cut", **options)
    again.restore(load_snapshot(again.out))
    for frame in every[10:]:
        again.push(frame)
    again.finish()
    left, right = (session.geometry.to_tensors() for session in (whole, again))
    assert left.keys() == right.keys()
    assert len(whole.geometry.keyframes()) > 1
    for name, tensor in left.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=0, equal_nan=True)
    reports = [session.geometry.write(session.out) for session in (whole, again)]
    assert reports[0] == reports[1]
    names = [name for name in ("points.ply", "mesh.ply") if (whole.out / name).exists()]
    assert "points.ply" in names
    for name in names:
        assert (whole.out / name).read_bytes() == (again.out / name).read_bytes(), name


def test_the_cloud_is_there_while_the_stream_goes_on_and_grows(make, frames):
    session = make("run", is_measured=True, per_chunk=4)
    sizes = []
    for frame in with_depth(frames(12)):
        session.push(frame)
        if session.snapshot() is not None:
            sizes.append(len(read_ply(session.out / "points.ply").points))
    assert sizes[0] > 100
    assert sizes[-1] > 1.5 * sizes[0]


def test_a_chunk_adds_no_more_keyframes_than_it_may_and_frames_without_depth_none(make, frames):
    session = make("run", is_measured=True, per_chunk=2, masks_moving=False)
    for frame in with_depth(frames(4)):
        session.push(frame)
    assert len(session.geometry.keyframes()) == 2
    for frame in frames(8)[4:]:
        session.push(frame)
    assert len(session.geometry.keyframes()) == 2


def test_where_things_may_move_only_what_was_drawn_before_it_was_learned_is_fused(make, frames):
    """Prequential views: one of each chunk of four, the first; before the first chunk none."""
    session = make("run", is_measured=True, per_chunk=4)
    for frame in with_depth(frames(12)):
        session.push(frame)
    assert [each.frame.index for each in session.geometry.keyframes()] == [0, 4, 8]
    still = make("still", is_measured=True, per_chunk=4)
    for frame in with_depth(frames(12)):
        still.push(replace(frame, time_s=None))
    assert len(still.geometry.keyframes()) == 12


def test_without_a_sensor_the_sure_part_of_what_the_memory_sees_is_fused(make, frames):
    session = make("run", is_measured=False, masks_moving=False)
    for frame in frames(8):
        session.push(frame)
    for keyframe in session.geometry.keyframes():
        assert 0.6 < (keyframe.frame.depth > 0).mean() <= 0.8
        is_fused = keyframe.frame.depth > 0
        assert keyframe.confidence[is_fused].min() >= keyframe.confidence[~is_fused].max() - 1


def test_a_session_without_geometry_takes_a_snapshot_that_has_some(make, model, frames, tmp_path):
    session = make("run", is_measured=True)
    for frame in with_depth(frames(5)):
        session.push(frame)
    session.snapshot()
    other = Session(model, session.policies, session.out, World("metric"))
    other.restore(load_snapshot(other.out))
    assert other.num_chunks == 1
    assert other.geometry is None


def test_no_views_at_all_is_said_at_once():
    with pytest.raises(UsageError, match="at least 1"):
        GeometryOptions(views=0, patch=8)
