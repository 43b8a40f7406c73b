"""The frame bank: what is kept when it is full, and whom a query asks."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from everview.datasets.cameras import Cameras, concatenate
from everview.models.frame_bank import FrameBank, nearest_sources, view_distance
from tests.models.scenes import looking_at, orbit


def bank_of(cameras: Cameras, time_s: torch.Tensor | None = None) -> FrameBank:
    """A bank whose frame n is filled with the value n / 255."""
    batch, views = cameras.shape
    levels = torch.arange(views).float() / 255
    images = levels.view(1, views, 1, 1, 1).expand(batch, views, 3, 16, 16)
    times = torch.full((batch, views), torch.nan) if time_s is None else time_s
    empty = FrameBank(images[:, :0].to(torch.uint8), cameras[:, :0], times[:, :0])
    return empty.add(images, cameras, times, views)


def kept(bank: FrameBank) -> list[int]:
    return bank.images[0, :, 0, 0, 0].tolist()


def at_angles(*degrees: float) -> Cameras:
    eyes = [(3 * math.cos(a), 3 * math.sin(a), 1.0) for a in map(math.radians, degrees)]
    poses = [looking_at(torch.tensor(eye).double(), torch.zeros(3).double()) for eye in eyes]
    lens = torch.tensor([20.0, 20, 8, 8]).expand(1, len(poses), 4)
    return Cameras(16, 16, lens, torch.stack(poses)[None].float())


def test_a_bank_never_holds_more_than_its_capacity() -> None:
    cameras = orbit(2, 9).to(torch.float32)
    bank = bank_of(cameras[:, :2])
    for n in range(2, 9):
        images = torch.full((2, 1, 3, 16, 16), n / 255)
        bank = bank.add(images, cameras[:, n : n + 1], torch.full((2, 1), torch.nan), 5)
        assert bank.size == min(n + 1, 5)
        assert bank.cameras.shape == (2, bank.size)
    assert bank.images.dtype == torch.uint8


def test_the_older_of_the_closest_pair_leaves() -> None:
    cameras = at_angles(0, 90, 180, 92, 270)
    assert kept(bank_of(cameras).reduced(4)) == [0, 2, 3, 4]


def test_a_full_bank_keeps_its_spread() -> None:
    """A camera that dwells and then goes round is remembered all the way round."""
    cameras = at_angles(*[0.1 * n for n in range(30)], *range(45, 360, 45))
    left = bank_of(cameras).reduced(8)
    assert kept(left) == [29, *range(30, 37)]


def test_each_scene_of_a_batch_keeps_its_own_frames() -> None:
    first, second = at_angles(0, 1, 120, 240), at_angles(0, 120, 121, 240)
    joint = bank_of(concatenate([first, second], dim=0)).reduced(3)
    levels = joint.images[:, :, 0, 0, 0].tolist()
    assert levels == [[1, 2, 3], [0, 2, 3]]


def test_frames_apart_in_time_are_not_redundant() -> None:
    cameras = at_angles(0, 0.5, 90, 90.6, 180)
    times = torch.tensor([[0.0, 50.0, 50.1, 50.2, 100.0]])
    assert kept(bank_of(cameras, times).reduced(4)) == [0, 1, 3, 4]


def test_a_bank_that_grows_leaves_the_old_one_alone() -> None:
    cameras = orbit(1, 4).to(torch.float32)
    bank = bank_of(cameras[:, :3])
    before = bank.images.clone()
    bank.add(torch.rand(1, 1, 3, 16, 16), cameras[:, 3:], torch.zeros(1, 1), 2)
    assert torch.equal(bank.images, before)
    assert bank.size == 3


def test_pictures_are_what_was_stored_to_8_bits() -> None:
    images = torch.rand(1, 1, 3, 16, 16) * 1.2 - 0.1
    cameras = orbit(1, 1).to(torch.float32)
    nothing = torch.zeros(1, 0, 3, 16, 16, dtype=torch.uint8)
    empty = FrameBank(nothing, cameras[:, :0], torch.zeros(1, 0))
    stored = empty.add(images, cameras, torch.zeros(1, 1), 4).pictures()
    assert (stored - images.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6


def test_sources_come_nearest_first_and_missing_ones_are_invalid() -> None:
    bank = bank_of(at_angles(0, 40, 90, 200))
    asked = at_angles(50.0, 195.0)
    unknown = torch.full((1, 2), torch.nan)
    index, valid = nearest_sources(asked, unknown, bank, 3)
    assert index.tolist() == [[[1, 2, 0], [3, 2, 1]]]
    assert valid.all()
    index, valid = nearest_sources(asked[:, :1], unknown[:, :1], bank.reduced(2), 4)
    assert valid.tolist() == [[[True, True, False, False]]]
    assert index.max() < 2


def test_sources_are_chosen_for_each_view_alone() -> None:
    """Also under bfloat16 autocast, which can't tell axes half a degree apart."""
    angles = [0, 0.5, 1.0, 1.5, 90, 180]
    bank = bank_of(at_angles(*angles))
    asked = at_angles(0.6, 1.4, 170.0)
    unknown = torch.full((1, 3), torch.nan)
    together, _ = nearest_sources(asked, unknown, bank, 2)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = nearest_sources(asked, unknown, bank, 2)
    assert torch.equal(rounded, together)
    for n in range(3):
        alone, _ = nearest_sources(asked[:, n : n + 1], unknown[:, :1], bank, 2)
        assert torch.equal(alone[:, 0], together[:, n])
    assert together[0, 0].tolist() == [1, 2]
    assert together[0, 1].tolist() == [3, 2]


def test_a_far_view_in_the_same_query_does_not_change_anothers_sources() -> None:
    """It would, if one median over all views weighed translation against rotation."""
    poses = torch.eye(4).repeat(6, 1, 1)
    poses[:, 0, 3] = torch.tensor([1.0, 0.0, 0.6, 0.6, 3.0, 100.0])
    for frame, degrees in enumerate((0, 25, 60, 70, 80, 0)):
        turn = math.radians(degrees)
        poses[frame, :3, 0] = torch.tensor([math.cos(turn), 0, -math.sin(turn)])
        poses[frame, :3, 2] = torch.tensor([math.sin(turn), 0, math.cos(turn)])
    cameras = Cameras(16, 16, torch.tensor([20.0, 20, 8, 8]).expand(1, 6, 4), poses[None])
    bank = bank_of(cameras[:, :5])
    here = replace(cameras[:, :1], c2w_cv=torch.eye(4)[None, None])
    both = concatenate([here, cameras[:, 5:]])
    unknown = torch.full((1, 2), torch.nan)
    alone, _ = nearest_sources(here, unknown[:, :1], bank, 1)
    together, _ = nearest_sources(both, unknown, bank, 1)
    assert alone[0, 0].tolist() == together[0, 0].tolist() == [1]


def test_time_decides_between_equal_cameras() -> None:
    bank = bank_of(at_angles(0, 0, 0, 60), torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    index, _ = nearest_sources(at_angles(0), torch.tensor([[1.9]]), bank, 3)
    assert index.tolist() == [[[2, 1, 0]]]


def test_distances_hold_far_from_the_origin() -> None:
    cameras = at_angles(0, 10, 20, 30)
    pose = cameras.c2w_cv.double().clone()
    near = view_distance(cameras, cameras, torch.zeros(1, 4), torch.zeros(1, 4))
    pose[..., :3, 3] += torch.tensor([300.0, 0, -200]).double()
    far = replace(cameras, c2w_cv=pose.float())
    moved = view_distance(far, far, torch.zeros(1, 4), torch.zeros(1, 4))
    torch.testing.assert_close(moved, near, rtol=0, atol=1e-3)
    assert near.diagonal(dim1=1, dim2=2).abs().max() < 1e-3
