"""The floor that run times are compared with: what is counted as a product, and what a row says."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from everview.pipeline.benchmarks.products import Products
from everview.pipeline.benchmarks.published_model import PublishedModel
from everview.pipeline.benchmarks.results import WrongResult, check
from everview.pipeline.benchmarks.timing import Times, take_turns


def test_every_kind_of_product_is_counted_with_its_operations() -> None:
    x, w = torch.randn(5, 7), torch.randn(11, 7)
    images, kernel = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)
    heads = torch.randn(1, 2, 6, 16)

    def run() -> None:
        functional.linear(x, w)
        functional.linear(x, w, torch.randn(11))
        torch.bmm(torch.randn(2, 3, 4), torch.randn(2, 4, 5)).sum().exp()
        functional.conv2d(images, kernel, padding=1)
        functional.scaled_dot_product_attention(heads, heads, heads)

    products = Products(run)
    linear, batched = 2 * 5 * 7 * 11, 2 * 2 * 3 * 4 * 5
    convolution, attention = 2 * 4 * 64 * 27, 2 * (2 * 2 * 6 * 6 * 16)
    assert products.flops == 2 * linear + batched + convolution + attention
    products()


def test_candidates_take_turns() -> None:
    order: list[str] = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert [len(times.rounds_ms[name]) for name in "ab"] == [2, 2]


def test_a_ratio_compares_times_of_the_same_round() -> None:
    times = Times({"slow": (2.0, 30.0, 4.0), "fast": (1.0, 10.0, 2.0)})
    assert times.ratio("slow", "fast") == 2.0


@pytest.mark.parametrize("found", [[1.0, 2.1], [1.0, torch.nan]])
def test_a_wrong_result_gets_no_number(found: list[float]) -> None:
    with pytest.raises(WrongResult, match="no time is reported"):
        check("it", torch.tensor(found), torch.tensor([1.0, 2.0]), 1e-3)


def test_the_published_model_renders_what_it_was_shown_alone() -> None:
    """Targets don't see each other, and rendering writes nothing."""
    torch.manual_seed(0)
    model = PublishedModel(blocks=2, dim=64, head_dim=32).double()
    rays = torch.randn(1, 3, 9, 16, 24, dtype=torch.float64)
    weights = model.reconstruct(rays, torch.rand(1, 3, 3, 16, 24, dtype=torch.float64))
    kept = [part.clone() for block in weights for part in block]
    both = model.render(rays[:, :2], weights)
    assert both.shape == (1, 2, 3, 16, 24)
    torch.testing.assert_close(both[:, 1:], model.render(rays[:, 1:2], weights))
    assert all(
        torch.equal(a, b) for a, b in zip(kept, [p for b in weights for p in b], strict=True)
    )
