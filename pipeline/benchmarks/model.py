"""`everview bench model`: everview against the published formulation on a CPU, in one run.

Both models have ten blocks of width 384 (33M parameters), absorb 8 views of 128x128 and render one
from the fast weights alone; what the frame bank costs is a row of its own. Pictures are rendered as
a session renders them: with bfloat16 products where the CPU has units for them (AMX), for which
both models have further rows, so that arithmetic and formulation can be told apart. All is first
checked against itself in float64. Then everything takes turns with the replay of its own products.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from everview.pipeline.benchmarks.contenders import (
    SIZE,
    TOKENS_PER_VIEW,
    VIEWS,
    Ours,
    Published,
    Scene,
)
from everview.pipeline.benchmarks.products import Products
from everview.pipeline.benchmarks.results import Report, Row, check, check_typical, report
from everview.pipeline.benchmarks.timing import take_turns

_LIMIT = 1e-4
# where two depths are equally likely a copied pixel may come from the other one
_BANK_LIMIT = 1e-2
_BFLOAT16_LIMIT = 2e-2

Runs = Mapping[str, Callable[[], object]]


def bench_model(threads: int, rounds: int) -> Report:
    """Measure on `threads` threads, each candidate once a round. Raises WrongResult when a result
    is off; then there are no numbers."""
    load, threads_before = os.getloadavg()[0], torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            scene = Scene.random()
            ours, published = Ours.of(scene), Published.of(scene)
            errors = _errors(ours, published)
            rows = _observe(ours, published, errors, rounds)
            rows += _render(ours, published, errors, 3 * rounds)
        return report(rows, torch.device("cpu"), rounds, load)
    finally:
        torch.set_num_threads(threads_before)


def _errors(ours: Ours, published: Published) -> dict[str, float]:
    """Error of every timed result against float64, by row."""
    exact, exact_published = ours.exact(), published.exact()
    picture, published_picture = exact.render(), exact_published.render()
    banked = exact.render_with_bank()
    full = ours.reading(None)
    errors = {
        "observe": check("observe", ours.memory(), exact.memory(), _LIMIT),
        "observe, published": check(
            "the published observe", published.memory(), exact_published.memory(), _LIMIT
        ),
        "render": check("render in float32", full.render(), picture, _LIMIT),
        "render, published": check(
            "the published render", published.render(), published_picture, _LIMIT
        ),
        "render, with bank": check(
            "render with bank in float32", full.render_with_bank(), banked, _BANK_LIMIT
        ),
    }
    if ours.view.products is None:
        return errors
    fast = published.render_bfloat16()
    return errors | {
        "render, float32": errors["render"],
        "render": check("render", ours.render(), picture, _BFLOAT16_LIMIT),
        "render, bfloat16, published": check(
            "the published render in bfloat16", fast, published_picture, _BFLOAT16_LIMIT
        ),
        "render, with bank": check_typical(
            "render with bank", ours.render_with_bank(), banked, _BFLOAT16_LIMIT
        ),
    }


def _observe(
    ours: Ours, published: Published, errors: Mapping[str, float], rounds: int
) -> list[Row]:
    runs = {"observe": ours.observe, "observe, published": published.observe}
    shape = f"{VIEWS} views {SIZE}x{SIZE}"
    against = {"observe": "observe, published"}
    return _rows(runs, against, shape, VIEWS * TOKENS_PER_VIEW, errors, rounds)


def _render(
    ours: Ours, published: Published, errors: Mapping[str, float], rounds: int
) -> list[Row]:
    runs = {
        "render": ours.render,
        "render, published": published.render,
        "render, with bank": ours.render_with_bank,
        "freeze, once a chunk": ours.freeze,
    }
    if ours.view.products is not None:
        runs["render, float32"] = ours.reading(None).render
        runs["render, bfloat16, published"] = published.render_bfloat16
    compared = ("render", "render, float32", "render, bfloat16, published")
    against = dict.fromkeys(compared, "render, published")
    return _rows(runs, against, f"1 view {SIZE}x{SIZE}", TOKENS_PER_VIEW, errors, rounds)


def _rows(
    runs: Runs,
    against: Mapping[str, str],
    shape: str,
    tokens: int,
    errors: Mapping[str, float],
    rounds: int,
) -> list[Row]:
    """Time every run and its products in turn. against: the run that another is compared with."""
    products = {name: Products(run) for name, run in runs.items()}
    replays = {f"{name}: products": replay for name, replay in products.items()}
    with torch.inference_mode():
        times = take_turns({**runs, **replays}, rounds)
    rows = []
    for name in runs:
        ms = times.median(name)
        rows.append(
            Row(
                op=name,
                shape=shape,
                tokens=tokens,
                ms=ms,
                gflops=products[name].flops / ms / 1e6,
                ratio_to_published=times.ratio(against[name], name) if name in against else None,
                fraction_of_products=times.ratio(f"{name}: products", name),
                error=errors.get(name),
            )
        )
    return rows
