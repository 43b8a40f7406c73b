"""What is staged is what was there at the time, bit for bit, in memory that stays."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from everview.pipeline.training.checkpoint_writer import CheckpointWriter
from everview.pipeline.training.checkpoints import Checkpoint, commit, newest
from everview.pipeline.training.exchange import Exchange
from everview.pipeline.training.staging import ALIGNMENT, AREA_BYTES, HostMemory, Staging

DTYPES = (
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn,
    torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64,
)  # fmt: skip


def bits(tensor):
    """All bits of a tensor, in the order of its elements."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def mixed_state(device="cpu"):
    """Every kind of tensor a training may keep: two files, of which the second shares storage."""
    noise = torch.Generator().manual_seed(0)
    numbers = {
        str(dtype): torch.randint(0, 2, (3, 5), generator=noise).to(device, dtype)
        for dtype in DTYPES
    }
    base = torch.randn(24, 36, generator=noise).to(device)
    views = {
        "whole": base,
        "transposed": base.T,
        "every other": base[::2, 1::3],
        "expanded": base[:1].expand(4, 36),
        "last": base[-1],
        "scalar": torch.tensor(7.5, device=device),
        "nothing": torch.empty(0, 4, device=device),
        "trained": torch.nn.Parameter(torch.tensor([float("nan"), -0.0, 2.0], device=device)),
    }
    return {"numbers": numbers, "views": views, "random": {"torch": torch.get_rng_state()}}


def same(found, expected):
    """Whether two sets of files are equal bit for bit."""
    return (
        found.keys() == expected.keys()
        and all(found[kind].keys() == expected[kind].keys() for kind in expected)
        and all(
            found[kind][name].shape == tensor.shape
            and found[kind][name].dtype == tensor.dtype
            and torch.equal(bits(found[kind][name]), bits(tensor))
            for kind, values in expected.items()
            for name, tensor in values.items()
        )
    )


def places(staged):
    """Where everything lies."""
    return {
        (kind, name): tensor.data_ptr()
        for kind, values in staged.items()
        for name, tensor in values.items()
    }


def write(directory, *states):
    """Commit one after the other by one writer; the newest commit."""
    writer = CheckpointWriter(directory, Exchange(), 2, pytest.fail)
    for step, state in enumerate(states):
        writer.submit(step, state, {})
    writer.settle()
    return newest(directory, pytest.fail)


def test_any_tensor_comes_back_from_a_commit_bit_for_bit(tmp_path):
    state = mixed_state()
    assert same(write(tmp_path, state).tensors, state)


def test_the_files_are_those_of_tensors_each_in_memory_of_its_own(tmp_path):
    state = mixed_state()
    own = commit(tmp_path / "own", Checkpoint(0, state, {}))
    staged = tmp_path / "staged" / write(tmp_path / "staged", state).name
    assert (own / "MANIFEST.json").read_bytes() == (staged / "MANIFEST.json").read_bytes()


def test_a_commit_holds_what_was_there_at_submit(tmp_path):
    weight = torch.arange(1 << 20, dtype=torch.float32)
    writer = CheckpointWriter(tmp_path, Exchange(), 2, pytest.fail)
    writer.submit(1, {"model": {"weight": weight}}, {})
    weight.fill_(-1.0)
    writer.settle()
    found = newest(tmp_path, pytest.fail).tensors["model"]["weight"]
    assert torch.equal(found, torch.arange(1 << 20, dtype=torch.float32))


def test_the_memory_stays_while_names_and_forms_do():
    staging = Staging(pytest.fail)
    state = mixed_state()
    first = places(staging.fill(state))
    state["views"]["whole"].add_(1)
    again = staging.fill(state)
    assert places(again) == first
    assert same(again, state)


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.full((5, 2), 3.0)},
        {"weight": torch.full((3, 2), 3.0, dtype=torch.float64)},
        {"other": torch.full((3, 2), 3.0)},
        {"weight": torch.full((3, 2), 3.0), "bias": torch.tensor(1)},
        {},
    ],
    ids=["a shape", "a dtype", "a name", "one more", "none"],
)
def test_another_layout_is_laid_out_anew(tmp_path, change):
    before = {"model": {"weight": torch.full((3, 2), 2.0)}}
    after = {"model": change}
    assert same(write(tmp_path, before, after).tensors, after)


def test_tensors_of_any_size_lie_apart_aligned_and_with_little_waste(monkeypatch):
    sizes = (AREA_BYTES + 1, 5, AREA_BYTES // 2, 3, AREA_BYTES // 2, AREA_BYTES // 2 - 100)
    made: list[int] = []
    plain = HostMemory.area

    def counted(self, size, for_gpu):
        made.append(size)
        return plain(self, size, for_gpu)

    monkeypatch.setattr(HostMemory, "area", counted)
    tensors = {str(place): torch.empty(size, dtype=torch.uint8) for place, size in enumerate(sizes)}
    staged = Staging(pytest.fail).fill({"model": tensors})["model"]
    spans = sorted((tensor.data_ptr(), len(tensor)) for tensor in staged.values())
    assert all(begin + size <= after for (begin, size), (after, _) in pairwise(spans))
    assert all(begin % ALIGNMENT == 0 for begin, _ in spans)
    assert made == [2 * AREA_BYTES, AREA_BYTES]


def test_memory_that_cannot_be_pinned_is_said_once_and_replaced(monkeypatch):
    plain = torch.empty

    def unpinned(*size, pin_memory=False, **options):
        if pin_memory:
            raise RuntimeError("no more pages\nand where that was")
        return plain(*size, **options)

    monkeypatch.setattr(torch, "empty", unpinned)
    said: list[str] = []
    memory = HostMemory(said.append)
    assert [len(memory.area(size, for_gpu=True)) for size in (64, 128)] == [64, 128]
    assert said == ["checkpoints take longer to stage: memory can't be pinned (no more pages)"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_what_lies_on_a_gpu_is_staged_pinned_and_equal():
    staging = Staging(pytest.fail)
    state = mixed_state("cuda")
    state["views"]["large"] = torch.randn(AREA_BYTES // 4 + 1, device="cuda")
    first = places(staging.fill(state))
    state["views"]["large"].mul_(3)  # still under way when it is staged
    staged = staging.fill(state)
    assert places(staged) == first
    assert same(staged, state)
    assert all(tensor.is_pinned() for tensor in staged["views"].values() if tensor.numel())
    assert not staged["random"]["torch"].is_pinned()
