"""The flags of a recipe: every value of its configuration. Imported once a recipe is named."""

from __future__ import annotations

from dataclasses import dataclass

from everview.pipeline.training.config import TrainConfig
from everview.workflows.cli.arguments import CommonFlags


@dataclass(frozen=True, kw_only=True)
class TrainArguments(CommonFlags, TrainConfig):
    """Train this recipe, or continue it in --out; every value below is the recipe's own."""

    workers: int = 1
    """processes to train with, one a GPU where there are some; any number continues a run"""
    address: str = ""
    """cluster to train on: HOST:PORT of its head, or auto; empty: RAY_ADDRESS, else this machine"""
