"""The letter W: one image at a time, positions relative within it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional

from everview.models.config import tiny
from everview.models.layers.feed_forward import FeedForward
from everview.models.layers.grid import TokenGrid, rotary_table
from everview.models.layers.rotary import rotate
from everview.models.layers.window_attention import WindowAttention

GRID = TokenGrid.of(2, 3, 8, torch.device("cpu"))


def window() -> WindowAttention:
    torch.manual_seed(0)
    return WindowAttention(replace(tiny(), dim=16, attention_head_dim=8)).double()


@torch.no_grad()
def test_it_is_attention_with_normalised_and_rotated_queries_and_keys() -> None:
    layer = window()
    x = torch.randn(1, 1, 6, 16, dtype=torch.float64)
    q, k, v = layer.qkv(layer.norm(x[0, 0])).view(6, 3, 2, 8).permute(1, 2, 0, 3)
    table = [part.double() for part in rotary_table((2, 3), 8, x.device)]
    q = rotate(functional.rms_norm(q, (8,), layer.query_norm.weight, 1e-6), *table)
    k = rotate(functional.rms_norm(k, (8,), layer.key_norm.weight, 1e-6), *table)
    mixed = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    expected = x[0, 0] + layer.out(mixed.transpose(0, 1).reshape(6, 16))
    torch.testing.assert_close(layer(x, GRID)[0, 0], expected, rtol=0, atol=1e-12)


def test_rotations_keep_lengths_and_see_only_differences() -> None:
    rows, columns, width = 5, 4, 8
    cosine, sine = rotary_table((rows, columns), width, torch.device("cpu"))
    x, y = torch.randn(width), torch.randn(width)
    turned_x, turned_y = rotate(x, cosine, sine), rotate(y, cosine, sine)
    torch.testing.assert_close(turned_x.norm(dim=-1), x.norm().expand(rows * columns))
    products = (turned_x @ turned_y.T).view(rows, columns, rows, columns)
    torch.testing.assert_close(products[:-1, :-1, :-1, :-1], products[1:, 1:, 1:, 1:])
    assert (products[0, 0, 1, 0] - products[0, 0, 0, 1]).abs() > 1e-3, "rows and columns differ"
    assert (products[0, 0, 1, 0] - products[1, 0, 0, 0]).abs() > 1e-3, "directions differ"


@torch.no_grad()
def test_views_do_not_see_each_other_nor_inputs_queries() -> None:
    layer = window()
    wide = FeedForward(replace(tiny(), dim=16, attention_head_dim=8)).double()
    x, q = torch.randn(2, 3, 6, 16).double(), torch.randn(2, 2, 6, 16).double()
    for run in (layer, wide):
        inputs, queries, state = run.run(x, q, (), None, None, GRID)
        alone, _, _ = run.run(x[:, 1:2], None, (), None, None, GRID)
        _, asked, _ = run.run(None, q, (), None, None, GRID)
        torch.testing.assert_close(inputs[:, 1:2], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(queries, asked, rtol=0, atol=1e-12)
        assert state == ()
