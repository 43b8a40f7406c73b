"""What a rendered picture is judged by, per image, on [0, 1].

Shapes: V images, H rows, W columns; pictures are float tensors [V, 3, H, W].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from everview.pipeline.evaluation.lpips_alex import LEAST_SIDE

# An image equal to its truth has no finite PSNR; it counts as this and is counted. Half a step of
# 8-bit quantisation is 54 dB: nothing that was stored as a picture measures above it by merit.
PSNR_CAP_DB = 60.0


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of V images, each float64 [V] on the CPU.

    lpips_alex: None without a backbone, or for pictures too small for it. capped: images that
    reached PSNR_CAP_DB.
    """

    psnr: Tensor
    ssim: Tensor
    laplacian_ratio: Tensor
    lpips_alex: Tensor | None
    capped: int

    def means(self) -> dict[str, float | None]:
        """The mean over images of each score, by its name in `metrics.json`."""
        return {
            "psnr": _mean(self.psnr),
            "ssim": _mean(self.ssim),
            "lpips_alex": None if self.lpips_alex is None else _mean(self.lpips_alex),
            "laplacian_ratio": _mean(self.laplacian_ratio),
        }

    def rows(self) -> list[dict[str, float | None]]:
        """The scores of each image, by name."""
        lpips = [None] * len(self.psnr) if self.lpips_alex is None else self.lpips_alex.tolist()
        columns = zip(
            self.psnr.tolist(),
            self.ssim.tolist(),
            lpips,
            self.laplacian_ratio.tolist(),
            strict=True,
        )
        names = ("psnr", "ssim", "lpips_alex", "laplacian_ratio")
        return [dict(zip(names, row, strict=True)) for row in columns]


def _mean(values: Tensor) -> float | None:
    known = values[values.isfinite()]
    return known.mean().item() if len(known) else None


def psnr(prediction: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """-10 log10(MSE) of each image in dB, float64 [V], clamped to [0, 1] and capped.

    mask: bool [V, H, W], False where a pixel doesn't count.
    """
    _check(prediction, truth)
    squared = (prediction.double().clamp(0, 1) - truth.double().clamp(0, 1)).square().mean(1)
    if mask is None:
        error = squared.mean((-2, -1))
    else:
        count = mask.sum((-2, -1))
        error = torch.where(mask, squared, 0.0).sum((-2, -1)) / count
    return (-10 * torch.log10(error)).clamp(max=PSNR_CAP_DB)


def ssim(prediction: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each image, float64 [V]: 11x11 Gaussian, sigma 1.5, data range 1.

    Wang et al. 2004; torchmetrics' implementation, mean over channels.
    """
    _check(prediction, truth)
    # imported here: a session needs none of it
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(
        prediction.float().clamp(0, 1),
        truth.float().clamp(0, 1),
        gaussian_kernel=True,
        sigma=1.5,
        kernel_size=11,
        data_range=1.0,
        reduction="none",
    )
    assert isinstance(values, Tensor)
    return values.double().reshape(-1)


def laplacian_ratio(prediction: Tensor, truth: Tensor) -> Tensor:
    """How much of the truth's fine detail a picture has, float64 [V]; blur shows as < 0.3.

    The mean square of the 4-neighbour Laplacian (0 1 0; 1 -4 1; 0 1 0) over channels and inner
    pixels, of the prediction over that of the truth. NaN where the truth is flat.
    """
    _check(prediction, truth)
    power = _laplacian_power(truth)
    ratio = _laplacian_power(prediction) / power
    return torch.where(power > 1e-12, ratio, torch.nan)


def _laplacian_power(images: Tensor) -> Tensor:
    images = images.double().clamp(0, 1)
    kernel = images.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    planes = functional.conv2d(images.flatten(0, 1)[:, None], kernel)
    return planes.square().mean((-3, -2, -1)).view(images.shape[0], -1).mean(1)


def score_images(
    prediction: Tensor,
    truth: Tensor,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
    mask: Tensor | None = None,
) -> ImageScores:
    """Every score of each image. lpips: a `LpipsAlex` or None.

    mask: bool [V, H, W]; ignored pixels take the truth's colour and don't count in the PSNR.
    """
    values = psnr(prediction, truth, mask)
    if mask is not None:
        prediction = torch.where(mask[:, None], prediction, truth)
    lpips = None if min(truth.shape[-2:]) < LEAST_SIDE else lpips
    return ImageScores(
        psnr=values.cpu(),
        ssim=ssim(prediction, truth).cpu(),
        laplacian_ratio=laplacian_ratio(prediction, truth).cpu(),
        lpips_alex=None if lpips is None else lpips(prediction, truth),
        capped=int((values >= PSNR_CAP_DB).sum()),
    )


def _check(prediction: Tensor, truth: Tensor) -> None:
    if prediction.shape != truth.shape or prediction.ndim != 4:
        raise ValueError(
            f"pictures {tuple(prediction.shape)} and {tuple(truth.shape)} are not both [V, 3, H, W]"
        )
