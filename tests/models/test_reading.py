"""A view packed in bfloat16 shows what the model's own weights show, and leaves them alone."""

from __future__ import annotations

import copy

import pytest
import torch

from everview.kernels.backend import reading_products
from everview.models.config import tiny
from everview.models.queries import Query
from everview.models.reading import PackedStack
from everview.models.scene_model import SceneModel
from tests.models.scenes import above_plane, plane_views


@pytest.fixture(scope="module")
def model() -> SceneModel:
    torch.manual_seed(0)
    return SceneModel(tiny()).eval().requires_grad_(False)


@torch.inference_mode()
@pytest.mark.parametrize("bank", [True, False])
def test_pictures_with_bfloat16_products_differ_by_less_than_a_grey_level(
    model: SceneModel, bank: bool
) -> None:
    cameras, seen = above_plane(), plane_views(above_plane())
    images = seen.images.float()
    state = model.observe(images, cameras, None, model.init_state(1), depth_BVHW=seen.depth)
    query = Query(cameras[:, :2])
    full = model.query(query, model.freeze(state), bank=bank)
    fast = model.query(query, model.freeze(state, torch.bfloat16), bank=bank)
    assert full.rgb is not None
    assert fast.rgb is not None
    assert fast.rgb.dtype == full.rgb.dtype == torch.float32
    assert 0 < float((fast.rgb - full.rgb).square().mean().sqrt()) < 1 / 255


@torch.inference_mode()
def test_packing_copies_weights_and_state(model: SceneModel) -> None:
    cameras, seen = above_plane(), plane_views(above_plane())
    state = model.observe(
        seen.images.float(), cameras, None, model.init_state(1), depth_BVHW=seen.depth
    )
    names = {name for name, _ in model.named_parameters()}
    view = model.freeze(state, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {name for name, _ in model.named_parameters()} == names
    assert view.layers[1].weights.dtype == torch.bfloat16
    assert state.layers[1].weights.dtype == torch.float32
    assert model.freeze(state).stack is model.layers


def test_a_packed_stack_is_kept_until_the_weights_change(model: SceneModel) -> None:
    packed = PackedStack()
    first = packed.of(model.layers, "these", torch.bfloat16)
    assert packed.of(model.layers, "these", torch.bfloat16) is first
    assert packed.of(model.layers, "others", torch.bfloat16) is not first
    assert packed.of(model.layers, "these", None) is model.layers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@torch.inference_mode()
def test_a_gpu_shows_what_the_cpu_shows(model: SceneModel) -> None:
    cameras, seen = above_plane(), plane_views(above_plane())
    images, query = seen.images.float(), Query(cameras[:, :2])
    pictures = []
    for place in (model, copy.deepcopy(model).cuda()):
        state = place.observe(images, cameras, None, place.init_state(1), depth_BVHW=seen.depth)
        products = reading_products(place.device) if place.device.type == "cuda" else None
        pictures.append(place.query(query, place.freeze(state, products)).rgb.cpu())
    assert float((pictures[0] - pictures[1]).square().mean().sqrt()) < 2 / 255
