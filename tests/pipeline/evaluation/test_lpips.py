"""LPIPS-alex: where its backbone comes from. Its values are checked with the floors."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from everview.pipeline.errors import UsageError
from everview.pipeline.evaluation import lpips_alex
from everview.pipeline.evaluation.image_metrics import score_images
from everview.pipeline.evaluation.lpips_alex import (
    LEAST_SIDE,
    SHIPPED_NAME,
    TOO_SMALL,
    BackboneMissingError,
    LpipsAlex,
    find_backbone,
    open_lpips,
    search_backbone,
)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No backbone anywhere, and no network."""
    monkeypatch.delenv("EVERVIEW_LPIPS", raising=False)
    monkeypatch.setenv("EVERVIEW_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    return tmp_path


def features(value: float = 0.01) -> dict[str, torch.Tensor]:
    tensors = {}
    for layer, shape in lpips_alex._LAYERS.items():
        tensors[f"features.{layer}.weight"] = torch.full(shape, value, dtype=torch.float16)
        tensors[f"features.{layer}.bias"] = torch.zeros(shape[0], dtype=torch.float16)
    return tensors


def test_without_a_backbone_there_is_a_reason_and_no_number(nowhere):
    metric, reason = open_lpips()
    assert metric is None
    assert "no route to host" in reason
    assert "--lpips-backbone" in reason


def test_the_order_is_flag_variable_data_cache_hub(nowhere, monkeypatch):
    places = {
        "cache": nowhere / "hub" / "checkpoints" / lpips_alex.HUB_URL.rsplit("/", 1)[1],
        "data": nowhere / "data" / "weights" / SHIPPED_NAME,
        "variable": nowhere / "variable.safetensors",
        "flag": nowhere / "flag.safetensors",
    }
    for path in places.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(BackboneMissingError):
        find_backbone()
    torch.save(features(), places["cache"])
    assert find_backbone().source == str(places["cache"])
    save_file(features(), places["data"])
    assert find_backbone().source == str(places["data"])
    save_file(features(), places["variable"])
    monkeypatch.setenv("EVERVIEW_LPIPS", str(places["variable"]))
    assert find_backbone().source == str(places["variable"])
    save_file(features(), places["flag"])
    assert find_backbone(places["flag"]).source == str(places["flag"])


def test_a_named_backbone_must_work(nowhere, monkeypatch):
    broken = nowhere / "broken.safetensors"
    broken.write_bytes(b"\xff" * 64)
    with pytest.raises(UsageError, match="--lpips-backbone"):
        find_backbone(broken)
    partial = features()
    del partial["features.6.weight"]
    save_file(partial, broken)
    with pytest.raises(UsageError, match=r"features\.6\.weight"):
        find_backbone(broken)
    monkeypatch.setenv("EVERVIEW_LPIPS", str(nowhere / "absent.safetensors"))
    with pytest.raises(UsageError, match="EVERVIEW_LPIPS"):
        find_backbone()


class _Payload:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVERVIEW_TEST_MARKER"],)


def test_a_malicious_backbone_is_not_executed(nowhere, monkeypatch):
    marker = nowhere / "marker"
    monkeypatch.setenv("EVERVIEW_TEST_MARKER", str(marker))
    torch.save({"features.0.weight": _Payload()}, nowhere / "evil.pth")
    with pytest.raises(UsageError, match="weights-only"):
        find_backbone(nowhere / "evil.pth")
    assert not marker.exists()


def test_equal_pictures_have_no_distance_and_others_have_one(nowhere):
    path = nowhere / "flag.safetensors"
    save_file(features(), path)
    metric = LpipsAlex(find_backbone(path))
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert metric(pictures, pictures).abs().max() < 1e-6
    assert (metric(pictures, pictures.flip(0))[[0, 2]] > 0).all()


def test_pictures_too_small_for_it_have_no_number_and_a_reason(nowhere):
    path = nowhere / "flag.safetensors"
    save_file(features(), path)
    metric = LpipsAlex(find_backbone(path))
    for side, is_known in ((LEAST_SIDE, True), (LEAST_SIDE - 1, False)):
        pictures = torch.rand(2, 3, side, 64, generator=torch.Generator().manual_seed(0))
        scores = score_images(pictures, pictures.flip(0), metric)
        assert (scores.lpips_alex is not None) is is_known
        assert (scores.rows()[0]["lpips_alex"] is not None) is is_known
        backbone, why = search_backbone(path, side=side)
        assert (backbone is not None) is is_known
        assert (why == TOO_SMALL) is not is_known
