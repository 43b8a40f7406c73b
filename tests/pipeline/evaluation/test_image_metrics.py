"""Scores of single pictures against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from everview.pipeline.evaluation.depth_metrics import alignment_of, depth_abs_rel
from everview.pipeline.evaluation.error_map import error_picture
from everview.pipeline.evaluation.image_metrics import (
    PSNR_CAP_DB,
    laplacian_ratio,
    psnr,
    score_images,
    ssim,
)


def textured(count: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_psnr_is_the_log_of_each_images_own_error():
    truth = torch.zeros(2, 3, 16, 16)
    prediction = torch.stack([torch.full((3, 16, 16), 0.1), torch.full((3, 16, 16), 0.01)])
    torch.testing.assert_close(
        psnr(prediction, truth), torch.tensor([20.0, 40.0], dtype=torch.float64), atol=1e-5, rtol=0
    )
    # the mean over images is 30 dB; the error averaged first would say 23 dB
    assert score_images(prediction, truth).means()["psnr"] == pytest.approx(30.0, abs=1e-4)


def test_an_identical_image_is_capped_and_counted():
    truth = textured()
    scores = score_images(torch.stack([truth[0], truth[1] * 0.5]), truth)
    assert scores.capped == 1
    assert scores.psnr[0].item() == PSNR_CAP_DB
    assert scores.ssim[0].item() == pytest.approx(1.0, abs=1e-6)


def test_psnr_clamps_what_no_screen_can_show():
    truth = torch.ones(1, 3, 16, 16)
    assert psnr(truth * 7, truth).item() == PSNR_CAP_DB


def test_masked_pixels_do_not_count():
    truth, wrong = textured(1), textured(1).clone()
    wrong[:, :, :16] = 0
    mask = torch.ones(1, 32, 32, dtype=torch.bool)
    mask[:, :16] = False
    scores = score_images(wrong, truth, mask=mask)
    assert scores.psnr.item() == PSNR_CAP_DB
    assert scores.ssim.item() == pytest.approx(1.0, abs=1e-6)


def test_blur_shows_in_the_laplacian_ratio_and_hardly_in_psnr():
    truth = functional.interpolate(textured(1, 64), size=128, mode="bilinear")
    blurred = functional.avg_pool2d(truth, 5, stride=1, padding=2, count_include_pad=False)
    assert laplacian_ratio(blurred, truth).item() < 0.3
    assert laplacian_ratio(truth, truth).item() == pytest.approx(1.0)
    assert psnr(blurred, truth).item() > 12


def test_the_laplacian_ratio_of_a_flat_truth_is_unknown():
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert math.isnan(laplacian_ratio(textured(1, 16), flat).item())
    assert score_images(textured(1, 16), flat).means()["laplacian_ratio"] is None


def test_ssim_of_two_flat_images_follows_the_published_formula():
    """Flat images have no variance: SSIM is (2ab + C1) / (a^2 + b^2 + C1), C1 = 0.01^2."""
    a, b = 0.4, 0.6
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    pictures = [torch.full((1, 3, 32, 32), value) for value in (a, b)]
    # single precision: the variances are differences of near-equal numbers
    assert ssim(*pictures).item() == pytest.approx(expected, abs=5e-4)


def test_pictures_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\)"):
        psnr(textured(1, 16), textured(1, 32))


def test_depth_error_counts_known_pixels_and_names_its_alignment():
    truth = torch.tensor([[[2.0, 4.0], [0.0, 8.0]]])
    prediction = torch.tensor([[[1.0, 4.0], [5.0, 6.0]]])
    assert depth_abs_rel(prediction, truth, "metric").item() == pytest.approx((0.5 + 0 + 0.25) / 3)
    assert depth_abs_rel(truth * 3, truth, "median").item() == pytest.approx(0)
    assert math.isnan(depth_abs_rel(prediction, truth * 0, "metric").item())
    assert alignment_of("metric") == "metric"
    assert alignment_of("up_to_scale") == "world"
    assert alignment_of("up_to_scale", has_cameras=False) == "median"


def test_the_error_map_is_black_where_equal_and_white_where_wrong():
    truth = (textured(1)[0].permute(1, 2, 0) * 100).numpy().astype("uint8")
    wrong = truth.copy()
    wrong[:4] = truth[:4] + 150
    picture = error_picture(wrong, truth)
    assert (picture[:4] == 255).all()
    assert picture[4:].max() < 16
