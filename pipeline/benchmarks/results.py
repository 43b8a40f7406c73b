"""Rows of a benchmark: the same for the table, for JSON and for a committed result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from everview.kernels.backend import backends_in_use
from everview.pipeline.errors import EverviewError
from everview.pipeline.runs import library_versions
from everview.pipeline.runs.provenance import describe_device, describe_host

COLUMNS = ("what", "shape", "ms", "GFLOP/s", "of published", "of products", "error")


class WrongResult(EverviewError):
    """A result failed its check, so there is no number for it."""


@dataclass(frozen=True)
class Row:
    """One measurement. tokens: how many went through. ms: median over rounds. gflops: rate of its
    products' operations. ratio_to_published: published time / this time, None for the published
    row's own. fraction_of_products: time of its products replayed alone / this time. error: largest
    deviation from float64, relative to the largest value; with the bank in bfloat16, the root mean
    square."""

    op: str
    shape: str
    tokens: int
    ms: float
    gflops: float | None = None
    ratio_to_published: float | None = None
    fraction_of_products: float | None = None
    error: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        ratio = "" if self.ratio_to_published is None else f"{self.ratio_to_published:.2f}x"
        share = "" if self.fraction_of_products is None else f"{self.fraction_of_products:.0%}"
        rate = "" if self.gflops is None else f"{self.gflops:.0f}"
        error = "" if self.error is None else f"{self.error:.0e}"
        return self.op, self.shape, f"{self.ms:.1f}", rate, ratio, share, error


@dataclass(frozen=True)
class Report:
    """What a benchmark measured, where, and how busy the machine was meanwhile."""

    rows: tuple[Row, ...]
    device: dict[str, Any]
    threads: int
    rounds: int
    load_before: float
    load_after: float

    def circumstances(self) -> str:
        """One line below the table."""
        return (
            f"{self.device['name']}, {self.threads} threads, torch {torch.__version__}; medians of "
            f"{self.rounds} rounds or more in turn; load average {self.load_before:.1f} before and "
            f"{self.load_after:.1f} after"
        )

    def as_json(self) -> dict[str, Any]:
        """Rows with the card and the versions that they were measured with."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "card": self.device["name"],
            "host": describe_host(),
            "threads": self.threads,
            "rounds": self.rounds,
            "load": [self.load_before, self.load_after],
            "backends": backends_in_use(torch.device(self.device["type"])),
            "versions": library_versions(),
        }


def report(rows: Sequence[Row], device: torch.device, rounds: int, load_before: float) -> Report:
    """The report of rows that were just measured. load_before: the load average at the start."""
    return Report(
        tuple(rows),
        describe_device(device),
        torch.get_num_threads(),
        rounds,
        round(load_before, 2),
        round(os.getloadavg()[0], 2),
    )


def check(name: str, found: torch.Tensor, exact: torch.Tensor, limit: float) -> float:
    """Largest deviation from `exact` relative to its largest value. Raises WrongResult over `limit`
    and where a value isn't finite."""
    deviation = (found.double() - exact.double()).abs().max()
    return _within(name, deviation / exact.double().abs().max(), limit)


def check_typical(name: str, found: torch.Tensor, exact: torch.Tensor, limit: float) -> float:
    """As `check`, of the root mean square: where rounding may decide which pixel is copied."""
    deviation = (found.double() - exact.double()).square().mean().sqrt()
    return _within(name, deviation / exact.double().abs().max(), limit)


def _within(name: str, error: torch.Tensor, limit: float) -> float:
    if not error <= limit:
        raise WrongResult(
            f"{name} is off by {error:.1e} of its largest value, more than {limit:.0e}: "
            "no time is reported for a wrong result"
        )
    return float(error)
