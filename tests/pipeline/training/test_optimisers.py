"""Muon orthogonalises, AdamW is AdamW, and a bad gradient changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everview.models.config import tiny
from everview.models.scene_model import SceneModel
from everview.pipeline.training.config import OptimiserConfig
from everview.pipeline.training.optimisers import Optimiser
from everview.pipeline.training.parameter_groups import split_parameters

QUIET = OptimiserConfig(weight_decay=0.0, clip=1e9)


class Stack(nn.Module):
    """A tall, a wide and a packed hidden matrix, a narrow one, and a head outside the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(
            {
                "expand": nn.Linear(48, 96),
                "contract": nn.Linear(96, 48, bias=False),
                "qkv": nn.Linear(48, 144, bias=False),
                "rates": nn.Linear(48, 3),
            }
        )
        self.head = nn.Linear(48, 64)


def with_gradients(seed: int = 0) -> Stack:
    torch.manual_seed(seed)
    model = Stack()
    for parameter in model.parameters():
        parameter.grad = 1e-2 * torch.randn_like(parameter)
    return model


def train(optimiser: Optimiser, model: nn.Module, seeds: range) -> None:
    """A step on the gradients of each seed."""
    for seed in seeds:
        given = with_gradients(seed).parameters()
        for parameter, other in zip(model.parameters(), given, strict=True):
            parameter.grad = other.grad
        optimiser.step(1.0)


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_hidden_matrices_go_to_muon_and_everything_else_to_adamw():
    groups = split_parameters(Stack())
    assert [(m.name, m.shape, m.first_row) for m in groups.hidden] == [
        ("layers.expand.weight", (96, 48), 0),
        ("layers.contract.weight", (48, 96), 0),
        ("layers.qkv.weight", (48, 48), 0),
        ("layers.qkv.weight", (48, 48), 48),
        ("layers.qkv.weight", (48, 48), 96),
    ]
    assert [name for name, _ in groups.rest] == [
        "layers.expand.bias", "layers.rates.weight", "layers.rates.bias",
        "head.weight", "head.bias",
    ]  # fmt: skip


def test_every_parameter_of_the_scene_model_is_in_one_group():
    model = SceneModel(tiny())
    groups = split_parameters(model)
    rest = [name for name, _ in groups.rest]
    hidden = {matrix.name for matrix in groups.hidden}
    assert sorted([*rest, *hidden]) == sorted(name for name, _ in model.named_parameters())
    kinds = {".".join(name.split(".")[2:]) for name in hidden}
    assert kinds == {"qkv.weight", "out.weight", "expand.weight", "contract.weight"}
    assert {"layers.1.w1", "layers.1.rates.weight", "head.pixels.weight"} <= set(rest)


def test_a_muon_update_has_the_singular_vectors_of_the_gradient_and_flat_singular_values():
    """Against an SVD: the update's singular values lie in Newton-Schulz's band around 1."""
    model = with_gradients()
    before = snapshot(model)
    gradient = model.layers["contract"].weight.grad.clone()
    Optimiser(model, QUIET).step(1.0)
    update = (before["layers.contract.weight"] - model.layers["contract"].weight) / QUIET.muon_rate
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    values = torch.diagonal(left.T @ update @ right.T)
    assert values.min() > 0.6
    assert values.max() < 1.3
    off_diagonal = left.T @ update @ right.T - torch.diag(values)
    assert off_diagonal.abs().max() < 1e-4


def test_packed_projections_are_orthogonalised_one_by_one():
    """A large gradient of the values does not drown the queries' and keys'."""
    model = with_gradients()
    model.layers["qkv"].weight.grad[96:] *= 100
    before = snapshot(model)
    Optimiser(model, QUIET).step(1.0)
    update = (before["layers.qkv.weight"] - model.layers["qkv"].weight) / QUIET.muon_rate
    sizes = [torch.linalg.matrix_norm(part) for part in update.chunk(3)]
    assert max(sizes) / min(sizes) < 1.1


def test_tall_matrices_move_further():
    model = with_gradients()
    before = snapshot(model)
    Optimiser(model, QUIET).step(1.0)
    tall = (before["layers.expand.weight"] - model.layers["expand"].weight) / QUIET.muon_rate
    assert torch.linalg.matrix_norm(tall.detach(), 2).item() == pytest.approx(2**0.5, rel=0.25)


def test_adamw_is_adamw():
    """Ten steps beside torch.optim.AdamW, weight decay on matrices included."""
    config = OptimiserConfig(hidden="adamw", weight_decay=0.1, clip=1e9)
    ours, theirs = with_gradients(), with_gradients()
    matrices = [p for n, p in theirs.named_parameters() if n.startswith("layers") and p.ndim == 2]
    decayed = {id(p) for p in matrices if min(p.shape) >= 32}
    reference = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if id(p) in decayed], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if id(p) not in decayed], "weight_decay": 0},
        ],
        lr=config.adamw_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )
    optimiser = Optimiser(ours, config)
    for step in range(10):
        torch.manual_seed(step)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        optimiser.step(1.0)
        reference.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e12], ids=["nan", "inf", "a spike"])
def test_a_bad_gradient_changes_neither_weights_nor_momentum(poison):
    model = with_gradients()
    optimiser = Optimiser(model, OptimiserConfig(average_decay=0.9))
    train(optimiser, model, range(3))
    before = snapshot(model)
    state = {name: value.clone() for name, value in optimiser.state().items()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, poison)
    verdict = optimiser.step(1.0)
    assert verdict.accepted == 0
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name
    for name, value in optimiser.state().items():
        assert name == "typical_norm" or torch.equal(value, state[name]), name
    assert torch.isfinite(optimiser.state()["typical_norm"])


def test_the_average_is_the_recursion_with_its_ramp():
    """Ten steps written out; from the third on the decay is the configured one."""
    model = with_gradients()
    optimiser = Optimiser(model, OptimiserConfig(average_decay=0.3))
    expected = snapshot(model)
    for step in range(1, 11):
        train(optimiser, model, range(step, step + 1))
        decay = min(0.3, (1 + step) / (10 + step))
        assert (decay == 0.3) == (step > 2)
        for name, value in snapshot(model).items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    means = optimiser.averages()
    assert means.keys() == expected.keys()
    for name, value in means.items():
        torch.testing.assert_close(value, expected[name], msg=name)
        assert not torch.equal(value, snapshot(model)[name])


def test_the_average_changes_no_step_and_the_result_is_a_model_of_its_own():
    models = []
    for decay in (None, 0.9):
        torch.manual_seed(0)
        models.append(SceneModel(tiny()))
        optimiser = Optimiser(models[-1], OptimiserConfig(average_decay=decay))
        for _ in range(3):
            for parameter in models[-1].parameters():
                parameter.grad = torch.ones_like(parameter)
            optimiser.step(1.0)
        if decay is None:
            assert optimiser.result() is models[-1]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, other)
    before = torch.get_rng_state()
    result = optimiser.result()
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in result.named_parameters():
        assert torch.equal(value, optimiser.averages()[name])
    assert result.head.pixels.weight.data_ptr() not in {
        mean.data_ptr() for mean in optimiser.averages().values()
    }
    assert not torch.equal(result.head.pixels.weight, models[-1].head.pixels.weight)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
def test_a_decay_that_forgets_all_or_nothing_is_refused(decay):
    with pytest.raises(ValueError, match="average_decay"):
        OptimiserConfig(average_decay=decay)


def test_gradients_are_clipped_to_the_global_norm():
    config = OptimiserConfig(hidden="adamw", clip=0.5, beta1=0.0)
    model = with_gradients()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    optimiser = Optimiser(model, config)
    verdict = optimiser.step(1.0)
    torch.testing.assert_close(verdict.norm, norm)
    means = [value.flatten() for name, value in optimiser.state().items() if name[:5] == "mean."]
    torch.testing.assert_close(torch.cat(means).norm(), torch.tensor(0.5))


def test_a_branch_without_gradient_stays_where_it_is():
    model = with_gradients()
    model.head.weight.grad = None
    before = snapshot(model)["head.weight"]
    Optimiser(model, QUIET).step(1.0)
    assert torch.equal(model.head.weight, before)


def test_state_of_another_model_is_refused():
    optimiser = Optimiser(Stack(), OptimiserConfig())
    with pytest.raises(ValueError, match="names"):
        optimiser.load_state({})
    state = optimiser.state()
    with pytest.raises(ValueError, match="shape"):
        optimiser.load_state({**state, "mean.head.bias": torch.zeros(1)})
    with pytest.raises(ValueError, match="gap"):
        optimiser.load_state(
            {name: value for name, value in state.items() if not name.endswith("@2304")}
        )
