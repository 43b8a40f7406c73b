"""Pair matchers on disk: the folders of `everview.models.weight_files`, of a kind of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from everview.models.pairs.config import PairConfig
from everview.models.pairs.matcher import PairMatcher
from everview.models.weight_files import load_module, save_module

DEFAULT_PAIRS = "pairs"
_KIND = "pair matcher"


def load_matcher(source: str | os.PathLike[str] = DEFAULT_PAIRS) -> PairMatcher:
    """The matcher of published weights, a folder or an URL: eval mode, float32, on the CPU.

    Raises WeightsError that names the file and what is wrong with it.
    """
    return load_module(source, _built)


def save_matcher(model: PairMatcher, folder: Path, card: str, facts: dict[str, Any]) -> Path:
    """Write `model` to `folder` in float16, replaced as a whole when complete."""
    configuration = {"kind": _KIND, **model.config.to_dict()}
    return save_module(model, configuration, folder, card, bits=16, facts=facts)


def _built(configuration: dict[str, Any]) -> PairMatcher:
    values = dict(configuration)
    if values.pop("kind", None) != _KIND:
        raise ValueError(f"the weights of another model, not of a {_KIND}")
    return PairMatcher(PairConfig(**values))
