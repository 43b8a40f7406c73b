"""Views of more tokens than a stack is for: reduced for tokens, whole for pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from everview.models.config import BankConfig, ModelConfig, base312m, tiny
from everview.models.decoding import enlarged
from everview.models.frame_bank import fitted
from everview.models.queries import Query
from everview.models.scene_model import SceneModel
from everview.models.schedule import CHUNK_CAUSAL
from everview.models.token_views import TokenViews
from tests.models.compiling import compiled_answers_are_plain_ones, without_breaks
from tests.models.fine_models import BANK, fine_model
from tests.models.part_claims import (
    answers_of_a_stream_are_an_episodes,
    views_are_answered_alone_as_together,
    views_that_went_on_and_were_frozen_once,
)
from tests.models.scenes import episode, scene_model, streamed

REDUCED = {"tokens_a_view": 4}
"""views of 16 x 16 px are seen whole, of 32 x 32 by half their sides"""


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((128, 128), (16, 16)),
        ((8, 8), (1, 1)),
        ((64, 256), (8, 32)),
        ((256, 256), (16, 16)),
        ((192, 192), (16, 16)),
        ((128, 224), (12, 21)),
        ((720, 1280), (12, 21)),
        ((8, 8192), (1, 256)),
    ],
    ids=str,
)
def test_views_keep_their_shape_and_have_no_more_tokens_than_256(size, grid) -> None:
    assert ModelConfig().token_grid(*size) == grid
    assert base312m().token_grid(*size) == (size[0] // 8, size[1] // 8)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 600))
def test_a_grid_is_the_largest_of_its_shape_within_the_limit(rows, columns, most) -> None:
    config = replace(tiny(), tokens_a_view=most)
    fewer = config.token_grid(8 * rows, 8 * columns)
    assert 1 <= fewer[0] <= rows
    assert 1 <= fewer[1] <= columns
    assert fewer[0] * fewer[1] <= most
    assert config.token_grid(8 * columns, 8 * rows) == (fewer[1], fewer[0])
    short, long = sorted((rows, columns))
    if rows * columns <= most:
        assert fewer == (rows, columns)
    else:  # one more on the shorter side, and the longer in proportion, would be too many
        assert (min(fewer) + 1) ** 2 * long / short > most * (1 - 1e-6)
        assert abs(max(fewer) - min(fewer) * long / short) <= 0.5 or max(fewer) * min(fewer) > (
            most - min(fewer)
        )


def test_sides_that_are_no_whole_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="image of 20x16 is not a multiple of the 8 pixel patch"):
        tiny().token_grid(16, 20)
    with pytest.raises(ValueError, match="tokens_a_view 0: at least 1, or None for all"):
        replace(tiny(), tokens_a_view=0)


def test_another_limit_is_another_model_of_another_name_and_none_is_as_before() -> None:
    names = {replace(tiny(), tokens_a_view=most).identity for most in (4, 256, None)}
    assert len(names) == 3
    assert "tokens_a_view" not in base312m().identity


@torch.no_grad()
def test_the_memory_alone_is_that_of_the_reduced_views_enlarged() -> None:
    model, seen = scene_model(**REDUCED), episode(size=(32, 32))
    images, cameras = fitted(seen.inputs.images, seen.inputs.cameras, 16, 16)
    small = replace(seen, inputs=replace(seen.inputs, images=images, cameras=cameras))
    asked = seen.targets.cameras.resized(16, 16)
    one = model.query(Query(seen.targets.cameras), model.freeze(streamed(model, seen)))
    other = model.query(Query(asked), model.freeze(streamed(model, small)))
    full = functional.interpolate(other.rgb.flatten(0, 1), size=(32, 32), mode="bilinear")
    assert one.rgb.shape[-2:] == (32, 32)
    torch.testing.assert_close(one.rgb.flatten(0, 1), full, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (24, 48)], ids=str)
@pytest.mark.parametrize("bank", [BANK, None], ids=["bank", "memory"])
def test_a_stream_s_answers_are_an_episode_s(size, bank) -> None:
    model = fine_model(**REDUCED) if bank else scene_model(**REDUCED)
    answers_of_a_stream_are_an_episodes(model, size, "rgb", 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("bank_size", [(16, 16), (32, 32)], ids=str)
@pytest.mark.parametrize("asked_size", [(16, 16), (32, 32)], ids=str)
def test_queries_of_one_size_use_frames_of_another(bank_size, asked_size) -> None:
    model, seen = fine_model(**REDUCED, cross_view=2), episode(size=bank_size)
    view = model.freeze(streamed(model, seen))
    asked = seen.targets.cameras.resized(*asked_size)
    found = model.query(Query(asked), view)
    assert found.rgb.shape[-2:] == asked_size
    assert not torch.equal(found.rgb, model.query(Query(asked), view, bank=False).rgb)


@torch.no_grad()
def test_pixels_of_a_larger_view_come_from_the_larger_frames() -> None:
    """What half-sized frames can't hold, one-pixel stripes, is in the picture."""
    bank = BankConfig(hypotheses=16, features=16, groups=4, refine_channels=16)
    model = SceneModel(replace(tiny(), bank=bank, **REDUCED)).eval()
    seen = episode((1,), targets=1, batch=1, size=(32, 32))
    stripes = (torch.arange(32) % 2).float().expand_as(seen.inputs.images)
    inputs = replace(seen.inputs, images=stripes)
    same = replace(seen, inputs=inputs, targets=replace(inputs, images=None))
    view = model.freeze(streamed(model, same))
    found = model.query(Query(inputs.cameras), view)
    contrast = (found.rgb[..., 1:] - found.rgb[..., :-1]).abs().mean()
    direct = (found.direct_rgb[..., 1:] - found.direct_rgb[..., :-1]).abs().mean()
    assert contrast > 10 * direct


@torch.no_grad()
def test_the_fine_sweep_looks_at_the_reduced_view_then_at_the_whole_in_half_steps() -> None:
    model, seen = fine_model(**REDUCED), episode(targets=1, batch=1, size=(32, 32))
    view = model.freeze(streamed(model, seen))
    swept, copied = [], []
    sweep, copy = model.fine.forward, model.refine.forward

    def watched_sweep(decoded, tokens, columns, cameras, maps, sources):
        found = sweep(decoded, tokens, columns, cameras, maps, sources)
        swept.append((decoded, columns, cameras, maps, found))
        return found

    def watched_copy(decoded, *rest):
        copied.append(decoded)
        return copy(decoded, *rest)

    model.fine.forward, model.refine.forward = watched_sweep, watched_copy
    model.query(Query(seen.targets.cameras), view)
    (first, columns, small, small_maps, found), (second, same, large, large_maps, last) = swept
    assert (small.width, large.width, columns, same) == (16, 32, 2, 2)
    assert small_maps is view.features[-2]
    assert large_maps is view.features[-1]
    assert torch.equal(second.log_depth, enlarged(found, large).log_depth)
    assert torch.equal(second.spacing, first.spacing / 2)
    assert torch.equal(copied[0].spacing, first.spacing)
    assert torch.equal(copied[0].log_depth, last.log_depth)
    assert torch.equal(copied[0].fine, last.fine)


@torch.no_grad()
def test_images_of_another_size_than_their_cameras_are_refused() -> None:
    model, seen = fine_model(**REDUCED), episode(size=(32, 32))
    view, small = model.freeze(streamed(model, seen)), seen.targets.cameras.resized(16, 16)
    with pytest.raises(ValueError, match="images of 32x32 for cameras of 16x16"):
        model.query(Query(small, images=seen.targets.images), view)
    inputs = seen.inputs.in_cameras(seen.inputs.cameras.resized(16, 16))
    with pytest.raises(ValueError, match="images of 32x32 for cameras of 16x16"):
        model(replace(seen, inputs=inputs), CHUNK_CAUSAL)


@torch.no_grad()
def test_views_are_answered_alone_as_together() -> None:
    views_are_answered_alone_as_together(fine_model(tokens_a_view=2))


@torch.inference_mode()
def test_a_stream_that_goes_on_shows_what_one_that_froze_once_does() -> None:
    view, _ = views_that_went_on_and_were_frozen_once(fine_model(cross_view=2, tokens_a_view=2))
    sizes = [made.shape[-1] for made in view.features[-2:]]
    assert sizes[1] > sizes[0]


def test_gradients_of_a_larger_picture_reach_every_weight() -> None:
    model = fine_model(**REDUCED).train()
    _, outs = model(episode(size=(32, 32)), CHUNK_CAUSAL)
    loss = outs.targets.rgb.square().mean() + outs.targets.log_depth.square().mean()
    (loss + outs.targets.direct_rgb.square().mean() + outs.inputs.rgb.square().mean()).backward()
    unreached = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # codes of what this episode doesn't lack: times, and the bank
    assert unreached == {"embed.time.unknown", "sweep.absent"}
    assert outs.inputs.log_depth.shape[-2:] == (32, 32)


@pytest.mark.slow
def test_larger_views_compile_without_breaks() -> None:
    plain, compiled = fine_model(**REDUCED), fine_model(**REDUCED)
    with without_breaks():
        compiled_answers_are_plain_ones(plain, compiled, episode(size=(32, 32)))


def test_cameras_that_fit_are_left_as_they_are() -> None:
    cameras = episode(size=(16, 16)).inputs.cameras
    assert TokenViews(replace(tiny(), **REDUCED)).cameras(cameras) is cameras
