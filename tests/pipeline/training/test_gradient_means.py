"""Gradients become means over ranks, begun during the backward pass, in one order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from everview.pipeline.training import gradient_means
from everview.pipeline.training.config import OptimiserConfig
from everview.pipeline.training.gradient_means import GradientMeans
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.ranks import Ranks


@dataclass(frozen=True)
class Halving(Ranks):
    """Two ranks of which the other's gradients are 0; `events` tells what happened when."""

    rank: int = 0
    size: int = 2
    events: list[str] = field(default_factory=list)
    first_order: tuple[int, ...] | None = None

    def begin_mean(self, tensor: Tensor) -> Callable[[], Tensor]:
        self.events.append(f"begin {tensor.numel()}")

        def end() -> Tensor:
            self.events.append(f"end {tensor.numel()}")
            return tensor.div_(2)

        return end

    def of_first(self, tensor: Tensor) -> Tensor:
        return tensor if self.first_order is None else tensor.new_tensor(self.first_order)


class Noted(torch.autograd.Function):
    """Identity that tells when its backward pass is reached."""

    @staticmethod
    def forward(ctx, x, events):  # type: ignore[no-untyped-def]
        ctx.events = events
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        ctx.events.append("early layer")
        return gradient, None


@pytest.fixture(autouse=True)
def a_bucket_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_means, "BUCKET_MIB", 0)


def weights() -> list[nn.Parameter]:
    """Registered in the order unused (1 element), late (3), early (2)."""
    return [nn.Parameter(torch.arange(1.0, size + 1)) for size in (1, 3, 2)]


def loss_of(parameters: list[nn.Parameter], ranks: Halving) -> Tensor:
    _, late, early = parameters
    return (late * Noted.apply(early.sum(), ranks.events)).sum()


def expected(parameters: list[nn.Parameter], steps: int = 1) -> list[Tensor]:
    unused, late, early = (parameter.detach() for parameter in parameters)
    whole = [torch.zeros_like(unused), early.sum().expand(3), late.sum().expand(2)]
    return [steps * gradient / 2 for gradient in whole]


def take(means: GradientMeans, parameters: list[nn.Parameter], ranks: Halving) -> list[Tensor]:
    for parameter in parameters:
        parameter.grad = None
    ranks.events.clear()
    means.backward(loss_of(parameters, ranks), last=True)
    means.settle()
    return [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


def test_every_gradient_is_averaged_exactly_once_and_unused_ones_are_zero() -> None:
    parameters, ranks = weights(), Halving()
    means = GradientMeans(parameters, ranks)
    for _ in range(3):
        torch.testing.assert_close(take(means, parameters, ranks), expected(parameters))


def test_an_exchange_begins_before_the_backward_pass_has_reached_earlier_layers() -> None:
    parameters, ranks = weights(), Halving()
    means = GradientMeans(parameters, ranks)
    take(means, parameters, ranks)  # learns the order
    take(means, parameters, ranks)
    begun = ranks.events
    assert begun.index("begin 3") < begun.index("early layer") < begun.index("begin 2")
    assert begun[-4:] == ["begin 1", "end 3", "end 2", "end 1"]  # waited for at the end only


def test_all_ranks_exchange_in_the_first_ranks_order_whatever_fills_first() -> None:
    parameters, ranks = weights(), Halving(first_order=(2, 0, 1))
    means = GradientMeans(parameters, ranks)
    for _ in range(2):
        torch.testing.assert_close(take(means, parameters, ranks), expected(parameters))
        begun = [event for event in ranks.events if event.startswith("begin")]
        assert begun == ["begin 2", "begin 1", "begin 3"]


def test_micro_batches_add_up_before_they_are_exchanged() -> None:
    parameters, ranks = weights(), Halving()
    means = GradientMeans(parameters, ranks)
    take(means, parameters, ranks)
    for parameter in parameters:
        parameter.grad = None
    for last in (False, False, True):
        ranks.events.clear()
        means.backward(loss_of(parameters, ranks), last=last)
        assert last or not [event for event in ranks.events if event.startswith("begin")]
    means.settle()
    found = [parameter.grad for parameter in parameters]
    torch.testing.assert_close(found, expected(parameters, steps=3))


def test_a_backward_pass_that_failed_halfway_leaves_the_next_one_whole() -> None:
    parameters, ranks = weights(), Halving()
    means = GradientMeans(parameters, ranks)
    take(means, parameters, ranks)
    broken = loss_of(parameters, ranks)
    hook = parameters[2].register_hook(lambda gradient: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        means.backward(broken, last=True)
    hook.remove()
    means.drop()
    assert all(parameter.grad is None for parameter in parameters)
    torch.testing.assert_close(take(means, parameters, ranks), expected(parameters))


def test_after_a_step_that_was_given_up_the_next_one_exchanges_with_its_last_micro_batch() -> None:
    model, ranks = nn.Linear(4, 3), Halving()
    optimiser = Optimiser(model, OptimiserConfig(hidden="adamw"), ranks)
    x = torch.ones(4)
    for _ in range(2):  # the first learns the order
        optimiser.backward(model(x).sum())
        optimiser.step(0.0)
    optimiser.backward(model(x).sum(), of=2)
    optimiser.drop()
    ranks.events.clear()
    optimiser.backward(model(x).sum(), of=2)
    assert not ranks.events
    optimiser.backward(model(x).sum(), of=2)
    assert [event for event in ranks.events if event.startswith("begin")]
    optimiser.gradients.settle()
    torch.testing.assert_close(model.bias.grad, torch.full((3,), 0.5))
