"""The dense sweep: what sources show along a pixel's ray, and outlines that follow from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everview.models.config import BankConfig, DenseSweepConfig, ModelConfig
from everview.models.dense_sweep import DenseSweep, Profile, ProfileReader
from everview.models.heads import FEATURES, Decoded
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from tests.models.scenes import above_plane, episode, plane_views, scene_model, streamed

BANK = BankConfig(hypotheses=8, features=8, groups=4, refine_channels=8)
DENSE = DenseSweepConfig(stride=2, channels=8)


@torch.no_grad()
def test_along_a_ray_the_sources_agree_at_the_plane_and_show_its_colour() -> None:
    seen = plane_views(above_plane())
    cameras = above_plane().to(torch.float32)
    truth = seen.depth[:, :1, 1::2, 1::2].log()  # next to the centres of blocks of 2 x 2
    near, far = float(truth.min()), float(truth.max())
    log_depths = torch.linspace(near - 0.2, far + 0.2, 24).view(1, 1, -1)
    bank = replace(BANK, hypotheses=24, compared=4)
    sweep = DenseSweep(bank, DENSE, dim=8, patch=8)
    index, valid = torch.arange(1, 5).view(1, 1, -1), torch.ones(1, 1, 4, dtype=torch.bool)
    sources = cameras[:, None, 1:]
    _, profile = sweep(cameras[:, :1], seen.images, sources, index, valid, log_depths)
    core = (0, 0, slice(None), slice(10, 22), slice(10, 22))
    found = profile.variance[core].argmin(0)
    step = float(log_depths[0, 0, 1] - log_depths[0, 0, 0])
    apart = (log_depths[0, 0, found] - truth[core[0], core[1], core[3], core[4]]).abs()
    assert float(apart.max()) < 1.5 * step
    assert bool((profile.seen[core].gather(0, found[None]) == 4).all())
    own = torch.nn.functional.avg_pool2d(seen.images[0, :1], 2)[0, :, 10:22, 10:22]
    shown = profile.colour[0, 0, :, :, 10:22, 10:22].gather(0, found.expand(1, 3, 12, 12))[0]
    assert float((shown - own).abs().max()) < 0.06


def test_an_outline_through_a_patch_is_neither_blurred_nor_moved() -> None:
    """Left of column 6 the sources agree on the near depth, which is red; right of it on the far
    one, blue. The tokens know neither."""
    reader = ProfileReader(replace(BANK, hypotheses=2), DenseSweepConfig(1, 8), patch=8)
    torch.nn.init.zeros_(reader.exit.weight)
    torch.nn.init.zeros_(reader.exit.bias)
    reader.exit.bias.data[2:4] = 20.0  # both gates open
    left = (torch.arange(16) < 6).expand(1, 1, 8, 16)
    red, blue = (torch.tensor(c).view(3, 1, 1).expand(3, 8, 16) for c in ((1.0, 0, 0), (0, 0, 1.0)))
    variance = torch.stack([~left, left], 2).float()
    profile = Profile(torch.stack([red, blue])[None, None], variance, torch.full_like(variance, 6))
    flat = torch.zeros(1, 1, 8, 16)
    decoded = Decoded(
        rgb=torch.full((1, 1, 3, 8, 16), 0.5),
        log_depth=flat + 0.5,
        log_scale=flat,
        features=torch.zeros(1, 1, FEATURES, 8, 16),
        spacing=torch.ones(1, 1),
        log_depths=torch.tensor([[[0.0, 1.0]]]),
        logits=torch.zeros(1, 1, 2, 2),
    )
    told = reader(profile, decoded)
    torch.testing.assert_close(told.log_depth, (~left).float(), rtol=0, atol=1e-4)
    expected = torch.where(left[:, :, None], red, blue)
    torch.testing.assert_close(told.rgb, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_weights_from_before_it_give_the_same_picture() -> None:
    before, seen = scene_model(bank=BANK), episode()
    torch.manual_seed(1)
    after = SceneModel(replace(before.config, dense_sweep=DENSE)).eval()
    left = after.load_state_dict(before.state_dict(), strict=False)
    assert {name.split(".")[0] for name in left.missing_keys} == {"dense_sweep", "reader"}
    pictures = [model(seen, CHUNK_CAUSAL)[1].targets for model in (before, after)]
    for name in ("rgb", "log_depth", "log_scale"):
        assert torch.equal(*(getattr(picture, name) for picture in pictures)), name
    assert before.fingerprint != after.fingerprint


@torch.no_grad()
def test_it_changes_picture_and_depth_of_the_bank_alone_and_alike_in_a_stream() -> None:
    plain, model = scene_model(bank=BANK), scene_model(bank=BANK, dense_sweep=DENSE)
    model.load_state_dict(plain.state_dict(), strict=False)
    seen = episode((2, 2))
    _, outs = model(seen, CHUNK_CAUSAL)
    view = model.freeze(streamed(model, seen))
    asked = Query(seen.targets.cameras, time_s=seen.targets.time_s)
    answer = model.query(asked, view, ("rgb", "depth", "memory_rgb"))
    torch.testing.assert_close(answer.rgb, outs.targets.rgb.clamp(0, 1), rtol=0, atol=1e-5)
    other = plain.query(asked, plain.freeze(streamed(plain, seen)), ("rgb", "depth", "memory_rgb"))
    assert (answer.rgb - other.rgb).abs().max() > 1e-3
    assert (answer.log_depth - other.log_depth).abs().max() > 1e-3
    assert torch.equal(answer.memory_rgb, other.memory_rgb)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"bank": None}, "needs a bank"), ({"dense_sweep": DenseSweepConfig(3)}, "doesn't divide")],
    ids=str,
)
def test_what_no_dense_sweep_can_be_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**({"dense_sweep": DENSE} | change))
    with pytest.raises(ValueError, match="stride and channels"):
        DenseSweepConfig(channels=0)
