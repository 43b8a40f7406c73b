"""`everview bench kernels` on a CPU: Newton-Schulz, update and apply beside the published form.

In float32; on a GPU see kernels_gpu.py. Both forms do the same work: all three matrices are
written. Useful operations of update and apply are 18 L D F (forward 4, backward 8, read 6);
Newton-Schulz is work, but not useful.
"""

from __future__ import annotations

import os

import torch

from everview.kernels.newton_schulz import newton_schulz
from everview.kernels.published import published_newton_schulz
from everview.pipeline.benchmarks.kernel_case import Case, Shape
from everview.pipeline.benchmarks.products import Products
from everview.pipeline.benchmarks.results import Report, Row, check, report
from everview.pipeline.benchmarks.timing import take_turns

_CPU = torch.device("cpu")
SHAPES = (Shape(1, 384, 768, 2048), Shape(1, 384, 768, 8192))
_LIMIT = 1e-3


def bench_kernels(threads: int, rounds: int) -> Report:
    """Measure on `threads` CPU threads. Raises WrongResult."""
    load, threads_before = os.getloadavg()[0], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows: list[Row] = []
        with torch.no_grad():
            for shape in SHAPES:
                rows += _update_and_apply(shape, rounds)
            rows += _newton_schulz((3, 384, 768), rounds)
        return report(rows, _CPU, rounds, load)
    finally:
        torch.set_num_threads(threads_before)


def _update_and_apply(shape: Shape, rounds: int) -> list[Row]:
    case = Case.random(shape, _CPU, torch.float32)
    exact = case.exact()
    truth = exact.forward(exact.ours)()[0]
    runs = {
        "update + apply": case.forward(case.ours),
        "update + apply, published": case.forward(case.published),
    }
    errors = {name: check(name, run()[0], truth, _LIMIT) for name, run in runs.items()}
    products = Products(runs["update + apply"], _CPU)
    times = take_turns({**runs, "products": products}, rounds)
    return [
        Row(
            op=name,
            shape=f"{shape.n} x {shape.width} x {shape.hidden}",
            tokens=shape.length,
            ms=times.median(name),
            gflops=shape.useful / times.median(name) / 1e6,
            ratio_to_published=times.ratio("update + apply, published", name),
            fraction_of_products=times.ratio("products", name),
            error=errors[name],
        )
        for name in runs
    ]


def _newton_schulz(shape: tuple[int, int, int], rounds: int) -> list[Row]:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    exact = newton_schulz(matrices.double())
    runs = {
        "newton-schulz": lambda: newton_schulz(matrices),
        "newton-schulz, published": lambda: torch.cat(
            [published_newton_schulz(matrix[None]) for matrix in matrices]
        ),
    }
    errors = {name: check(name, run(), exact, _LIMIT) for name, run in runs.items()}
    products = {name: Products(run, _CPU) for name, run in runs.items()}
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
