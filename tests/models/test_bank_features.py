"""Features of a bank's frames are made once a frame, and are what making all of them gives."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from everview.datasets.cameras import Cameras
from everview.models import bank_features
from everview.models.bank_features import BankFeatures
from everview.models.config import tiny
from everview.models.frame_bank import FrameBank
from everview.models.scene_model import SceneModel

SIZE = 16


class Counting:
    """Features that count the pictures they were made of."""

    def __init__(self, network) -> None:
        self.network, self.pictures = network, 0

    def __call__(self, bank):
        self.pictures += bank.size
        return (self.network(bank.pictures()),)


@pytest.fixture(scope="module")
def model() -> SceneModel:
    torch.manual_seed(3)
    return SceneModel(tiny()).eval().requires_grad_(False)


def chunk(count: int, first: int):
    """Frames along a line, uint8."""
    random = torch.Generator().manual_seed(first)
    images = torch.rand(1, count, 3, SIZE, SIZE, generator=random)
    poses = torch.eye(4).repeat(1, count, 1, 1)
    poses[0, :, 0, 3] = torch.arange(first, first + count, dtype=torch.float32) ** 1.1
    lens = torch.tensor([SIZE, SIZE, SIZE / 2, SIZE / 2]).repeat(1, count, 1)
    times = torch.arange(first, first + count, dtype=torch.float64)[None]
    return images, Cameras(SIZE, SIZE, lens, poses), times


def banks(sizes: list[int], capacity: int):
    """A bank after each chunk of a stream."""
    images, cameras, times = chunk(0, 0)
    bank = FrameBank(images.to(torch.uint8), cameras, times)
    first = 0
    for size in sizes:
        bank = bank.add(*chunk(size, first), capacity)
        first += size
        yield bank


@torch.no_grad()
def test_a_stream_has_the_features_of_all_frames_at_once(model):
    cache, counting = BankFeatures(), Counting(model.sweep.features)
    for bank in banks([4, 3, 5, 1, 2, 6, 4], capacity=9):
        (maps,) = cache.of(bank, counting, ("w",))
        # some CPUs' convolutions round otherwise in batches of other sizes
        whole = model.sweep.features(bank.pictures())
        torch.testing.assert_close(maps, whole, rtol=0, atol=1e-6)
    assert counting.pictures == 4 + 3 + 5 + 1 + 2 + 6 + 4  # every frame once


@torch.no_grad()
def test_the_same_bank_costs_nothing_and_other_weights_make_all_anew(model):
    cache, counting = BankFeatures(), Counting(model.sweep.features)
    (bank,) = banks([5], capacity=9)
    cache.of(bank, counting, ("w",))
    cache.of(bank, counting, ("w",))
    assert counting.pictures == 5
    cache.of(bank, counting, ("other",))
    assert counting.pictures == 10


@torch.no_grad()
def test_another_stream_of_the_same_model_is_not_taken_for_the_first(model):
    cache, counting = BankFeatures(), Counting(model.sweep.features)
    *_, first = banks([4, 4], capacity=9)
    other = replace(first, images=first.images.flip(1))
    cache.of(first, counting, ("w",))
    (maps,) = cache.of(other, counting, ("w",))
    assert torch.equal(maps, model.sweep.features(other.pictures()))


@torch.no_grad()
def test_the_same_pictures_through_other_lenses_are_made_anew(model):
    cache, counting = BankFeatures(), Counting(model.sweep.features)
    (bank,) = banks([5], capacity=9)
    cache.of(bank, counting, ("w",))
    cache.of(replace(bank, cameras=bank.cameras[:, :]), counting, ("w",))
    assert counting.pictures == 5
    longer = replace(bank.cameras, intrinsics=2 * bank.cameras.intrinsics)
    cache.of(replace(bank, cameras=longer), counting, ("w",))
    assert counting.pictures == 10


def test_with_gradients_everything_is_made_anew(model):
    cache, counting = BankFeatures(), Counting(model.sweep.features)
    (bank,) = banks([5], capacity=9)
    with torch.enable_grad():
        cache.of(bank, counting, ("w",))
        cache.of(bank, counting, ("w",))
    assert counting.pictures == 10


@torch.no_grad()
def test_a_copy_of_a_model_begins_without(model):
    cache = BankFeatures()
    (bank,) = banks([5], capacity=9)
    cache.of(bank, Counting(model.sweep.features), ("w",))
    counting = Counting(model.sweep.features)
    copy.deepcopy(cache).of(bank, counting, ("w",))
    assert counting.pictures == 5


@torch.no_grad()
def test_frames_whose_sums_agree_are_told_apart_by_their_pixels(model, monkeypatch):
    monkeypatch.setattr(bank_features, "_sums", lambda images: [0] * len(images))
    cache, counting = BankFeatures(), Counting(model.sweep.features)
    for bank in banks([4, 4, 4], capacity=6):
        (maps,) = cache.of(bank, counting, ("w",))
        assert torch.equal(maps, model.sweep.features(bank.pictures()))


def test_sums_tell_the_same_bytes_in_other_places_apart():
    images = torch.zeros(3, 3, SIZE, SIZE, dtype=torch.uint8)
    images[1, 0, 0, 0], images[2, 0, 1, 0] = 7, 7
    assert len(set(bank_features._sums(images))) == 3
