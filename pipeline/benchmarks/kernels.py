"""`everview bench kernels`: Newton-Schulz, update and apply against the published formulation.

On a GPU in bfloat16 when there is one, else on the CPU in float32. Both forms do the same work
here: all three matrices are written. Useful operations of update and apply are 18 L D F
(forward 4, backward 8, read 6); Newton-Schulz is work, but not useful.

Shapes: N = batch x heads, L tokens, D head width, F hidden width.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from everview.kernels.fast_weight import (
    MATRICES,
    FastWeights,
    fast_weight_apply,
    fast_weight_commit,
    fast_weight_direction,
    fast_weight_gradient,
    initial_norms,
    pack,
    unpack,
)
from everview.kernels.newton_schulz import newton_schulz
from everview.kernels.published import (
    PublishedWeights,
    published_apply,
    published_newton_schulz,
    published_prologue,
    published_update,
)
from everview.pipeline.benchmarks.products import Products
from everview.pipeline.benchmarks.results import Report, Row, check, report
from everview.pipeline.benchmarks.timing import take_turns

CPU_SHAPES = ((1, 384, 768, 2048), (1, 384, 768, 8192))
GPU_SHAPES = (
    (1, 768, 1536, 4096), (1, 768, 1536, 16384), (1, 768, 1536, 65536),
    (4, 768, 1536, 4096), (4, 768, 1536, 16384), (12, 512, 512, 4096),
)  # fmt: skip
# after Newton-Schulz, bfloat16 isn't reproducible elementwise: only gross faults are caught there
_LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.5}


@dataclass(frozen=True)
class _Case:
    """weights float32, tokens in the device's compute type: qkv [N, L, 3D], rates [N, L, 3]."""

    weights: PublishedWeights
    qkv: Tensor
    rates: Tensor

    @staticmethod
    def random(shape: tuple[int, int, int, int], device: torch.device) -> _Case:
        n, width, hidden, length = shape
        generator = torch.Generator(device).manual_seed(0)
        compute = torch.bfloat16 if device.type == "cuda" else torch.float32

        def draw(*size: int) -> Tensor:
            return torch.randn(*size, device=device, generator=generator)

        weights = PublishedWeights(
            draw(n, width, hidden) / width**0.5,
            draw(n, hidden, width) / hidden**0.5,
            draw(n, width, hidden) / width**0.5,
        )
        rates = 0.01 * torch.rand(n, length, 3, device=device, generator=generator)
        return _Case(weights, draw(n, length, 3 * width).to(compute), rates)

    def exact(self) -> _Case:
        """The same numbers in float64."""
        weights = PublishedWeights(*(w.double() for w in self.weights))
        return _Case(weights, self.qkv.double(), self.rates.double())

    def ours(self) -> Tensor:
        """Update and read."""
        width = self.qkv.shape[-1] // 3
        start = FastWeights(*self.weights)
        delta = fast_weight_gradient(start, self.qkv[..., width:], self.rates, MATRICES)
        direction, norms = fast_weight_direction(delta), initial_norms(start)
        step = self.rates.new_ones(len(self.qkv))
        moved = fast_weight_commit(pack(start), direction, step, norms)
        return fast_weight_apply(unpack(moved), self.qkv[..., :width])

    def published(self) -> Tensor:
        """Update and read as published: products in the tokens' type, weights kept in float32."""
        compute = self.qkv.dtype
        query, key, value = published_prologue(self.qkv)
        low = PublishedWeights(*(w.to(compute) for w in self.weights))
        moved = published_update(low, key, value, self.rates)
        return published_apply(moved, query)


def bench_kernels(threads: int, rounds: int) -> Report:
    """Measure on the GPU if there is one, else on `threads` CPU threads. Raises WrongResult."""
    load, threads_before = os.getloadavg()[0], torch.get_num_threads()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(threads)
    try:
        rows: list[Row] = []
        for shape in GPU_SHAPES if device.type == "cuda" else CPU_SHAPES:
            with torch.no_grad():
                rows += _update_and_apply(shape, device, rounds)
        with torch.no_grad():
            rows += _newton_schulz((3, 384, 768), device, rounds)
        return report(rows, device, rounds, load)
    finally:
        torch.set_num_threads(threads_before)


def _update_and_apply(
    shape: tuple[int, int, int, int], device: torch.device, rounds: int
) -> list[Row]:
    n, width, hidden, length = shape
    case = _Case.random(shape, device)
    exact, limit = case.exact().ours(), _LIMITS[case.qkv.dtype]
    errors = {
        "update + apply": check("update + apply", case.ours(), exact, limit),
        "update + apply, published": check("the published", case.published(), exact, limit),
    }
    del exact
    compiled = torch.compile(case.published) if device.type == "cuda" else case.published
    products = Products(case.ours, device)
    runs = {"update + apply": case.ours, "update + apply, published": compiled}
    times = take_turns({**runs, "products": products}, rounds)
    useful = 18 * n * length * width * hidden
    return [
        Row(
            op=name,
            shape=f"{n} x {width} x {hidden}",
            tokens=length,
            ms=times.median(name),
            gflops=useful / times.median(name) / 1e6,
            ratio_to_published=times.ratio("update + apply, published", name),
            fraction_of_products=times.ratio("products", name),
            error=errors[name],
        )
        for name in runs
    ]


def _newton_schulz(shape: tuple[int, int, int], device: torch.device, rounds: int) -> list[Row]:
    torch.manual_seed(0)
    matrices = torch.randn(shape, device=device)
    low = torch.bfloat16 if device.type == "cuda" else torch.float32
    exact = newton_schulz(matrices.double())
    runs = {
        "newton-schulz": lambda: newton_schulz(matrices),
        "newton-schulz, published": lambda: torch.cat(
            [published_newton_schulz(matrix[None], 5, low) for matrix in matrices]
        ),
    }
    limit = _LIMITS[low]
    errors = {name: check(name, run(), exact, limit) for name, run in runs.items()}
    products = {name: Products(run, device) for name, run in runs.items()}
    replays = {f"{name}: products": replay for name, replay in products.items()}
    times = take_turns({**runs, **replays}, rounds)
    return [
        Row(
            op=name,
            shape=" x ".join(map(str, shape)),
            tokens=0,
            ms=times.median(name),
            gflops=products[name].flops / times.median(name) / 1e6,
            ratio_to_published=times.ratio("newton-schulz, published", name),
            fraction_of_products=times.ratio(f"{name}: products", name),
            error=errors[name],
        )
        for name in runs
    ]
