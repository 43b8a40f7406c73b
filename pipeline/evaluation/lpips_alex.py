"""LPIPS-alex: the perceptual distance of Zhang et al. 2018, version 0.1, AlexNet.

The `lpips` package brings the learned linear heads; the AlexNet features below them are looked for
in a fixed order, so that two runs compare the same thing, and their place is reported.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from everview.pipeline.errors import UsageError

ENVIRONMENT_VARIABLE = "EVERVIEW_LPIPS"
SHIPPED_NAME = "alexnet_features_fp16.safetensors"
LEAST_SIDE = 31
"""Pixels, under which AlexNet's last maps are empty."""
TOO_SMALL = f"LPIPS needs pictures of at least {LEAST_SIDE} x {LEAST_SIDE} pixels"
# torchvision's published file; the name carries the hash that the hub verifies.
HUB_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
_LAYERS = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3),
           10: (256, 256, 3, 3)}  # fmt: skip
_IMAGES_AT_A_TIME = 16


class BackboneMissingError(Exception):
    """No AlexNet features could be had; the message is the reason for `missing`."""


@dataclass(frozen=True)
class Backbone:
    """AlexNet's convolutions by torchvision's names, and where they came from."""

    tensors: Mapping[str, Tensor]
    source: str


def data_root() -> Path:
    """The folder of reference data: $EVERVIEW_DATA, else ../shared/data."""
    return Path(os.environ.get("EVERVIEW_DATA", "../shared/data"))


def find_backbone(flag: Path | str | None = None, download: bool = True) -> Backbone:
    """The first of: `--lpips-backbone`, $EVERVIEW_LPIPS, $EVERVIEW_DATA/weights/, the hub's cache,
    the hub.

    A place named by the user must work: UsageError if it doesn't. BackboneMissingError when
    nothing is found.
    """
    for name, value in (
        ("--lpips-backbone", flag),
        (ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE)),
    ):
        if value:
            try:
                return Backbone(_read(Path(value)), str(value))
            except (OSError, ValueError) as error:
                raise UsageError(f"{name} {value} is not an AlexNet backbone: {error}") from None
    tried = []
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(HUB_URL).name
    for path in (data_root() / "weights" / SHIPPED_NAME, cached):
        if not path.exists():
            tried.append(f"{path} is absent")
            continue
        try:
            return Backbone(_read(path), str(path))
        except (OSError, ValueError) as error:
            tried.append(f"{path}: {error}")
    if download:
        try:
            state = torch.hub.load_state_dict_from_url(
                HUB_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
            return Backbone(_checked(state), HUB_URL)
        except (OSError, URLError, RuntimeError, ValueError) as error:
            tried.append(f"the hub can't be reached ({error})")
    raise BackboneMissingError(
        "no AlexNet backbone for LPIPS: " + "; ".join(tried) + "; name one with --lpips-backbone"
    )


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return _checked(load_file(path))
        except SafetensorError as error:
            raise ValueError(str(error)) from None
    try:
        return _checked(torch.load(path, map_location="cpu", weights_only=True))
    except OSError:
        raise
    except Exception as error:  # torch.load raises half a dozen types on bytes that aren't its own
        raise ValueError(f"not a safetensors or weights-only torch file ({error})") from None


def _checked(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise ValueError("it holds no named tensors")
    tensors = {}
    for layer, shape in _LAYERS.items():
        for part, expected in (("weight", shape), ("bias", shape[:1])):
            name = f"features.{layer}.{part}"
            tensor = state.get(name)
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != expected:
                raise ValueError(f"{name} of shape {expected} is missing")
            tensors[name] = tensor.float()
    return tensors


class LpipsAlex:
    """The distance as a function of two pictures; lower is nearer, 0 is equal."""

    def __init__(self, backbone: Backbone, device: torch.device | str = "cpu") -> None:
        import lpips

        with warnings.catch_warnings():
            # lpips asks torchvision for an untrained AlexNet by a keyword that has a new name
            warnings.simplefilter("ignore")
            net = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
        trunk = net.net.state_dict()
        for name in trunk:
            # slice3.6.weight holds features.6.weight
            trunk[name] = backbone.tensors[f"features.{name.split('.', 1)[1]}"]
        net.net.load_state_dict(trunk)
        self.source = backbone.source
        self.network = net.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)

    @torch.no_grad()
    def __call__(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Distances float64 [V] on the CPU of pictures [V, 3, H, W] in [0, 1]."""
        distances = [
            self.network(a, b, normalize=True).reshape(-1)
            for a, b in zip(
                prediction.to(self._device).float().clamp(0, 1).split(_IMAGES_AT_A_TIME),
                truth.to(self._device).float().clamp(0, 1).split(_IMAGES_AT_A_TIME),
                strict=True,
            )
        ]
        return torch.cat(distances).double().cpu()


def search_backbone(
    flag: Path | str | None = None, *, download: bool = True, side: int = LEAST_SIDE
) -> tuple[Backbone | None, str]:
    """The backbone and its place, or None and the reason why there is none for pictures whose
    shorter side is `side` pixels."""
    if side < LEAST_SIDE:
        return None, TOO_SMALL
    try:
        backbone = find_backbone(flag, download)
    except BackboneMissingError as missing:
        return None, str(missing)
    return backbone, backbone.source


def open_lpips(
    flag: Path | str | None = None,
    device: torch.device | str = "cpu",
    *,
    download: bool = True,
) -> tuple[LpipsAlex | None, str]:
    """The metric and its backbone's place, or None and the reason why there is none."""
    backbone, note = search_backbone(flag, download=download)
    return (None if backbone is None else LpipsAlex(backbone, device)), note
