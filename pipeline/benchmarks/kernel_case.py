"""What `everview bench kernels` times on a GPU: one chunk written and read, in every formulation.

All start from raw projections in bfloat16, float32 weights and learning rates, write all three
matrices and read with what they wrote.

Shapes: N = batch x heads, L tokens, D head width, F hidden width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from everview.kernels import fast_weight
from everview.kernels.fast_weight import (
    ElasticRule,
    ElasticState,
    FastWeights,
    initial_norms,
    pack,
    reference,
    unpack,
)
from everview.kernels.newton_schulz.reference import newton_schulz
from everview.kernels.published import (
    PublishedWeights,
    published_apply,
    published_prologue,
    published_update,
)

Result = tuple[Tensor, ...]
Formulation = Callable[[Tensor, Tensor, Tensor], Result]
_RULE = ElasticRule("si", "ema", pull=0.5, decay=0.5, beta=0.5)


@dataclass(frozen=True)
class Shape:
    """N, D, F and L of a benchmark."""

    n: int
    width: int
    hidden: int
    length: int

    @property
    def useful(self) -> int:
        """18 N L D F operations: forward 4, backward 8, read 6. Newton-Schulz isn't counted."""
        return 18 * self.n * self.length * self.width * self.hidden

    def __str__(self) -> str:
        return f"{self.n} x {self.width} x {self.hidden}, {self.length}"


@dataclass(frozen=True)
class Case:
    """qkv [N, L, 3D], rates [N, L, 3], packed weights [N, 3, D, F] and the norms they keep, an
    elastic state as after some updates, a gradient of the read [N, L, D], Newton-Schulz steps."""

    qkv: Tensor
    rates: Tensor
    packed: Tensor
    norms: tuple[Tensor, ...]
    state: ElasticState
    by_read: Tensor
    steps: int = 5

    @staticmethod
    def random(shape: Shape, device: torch.device, tokens: torch.dtype = torch.bfloat16) -> Case:
        """The same numbers every time."""
        generator = torch.Generator(device).manual_seed(0)
        n, width, hidden, length = shape.n, shape.width, shape.hidden, shape.length

        def draw(*size: int) -> Tensor:
            return torch.randn(*size, device=device, generator=generator)

        weights = FastWeights(
            draw(n, width, hidden) / width**0.5,
            draw(n, hidden, width) / hidden**0.5,
            draw(n, width, hidden) / width**0.5,
        )
        rates = 0.01 * torch.rand(n, length, 3, device=device, generator=generator)
        qkv, by_read = draw(n, length, 3 * width).to(tokens), draw(n, length, width).to(tokens)
        packed = pack(weights)
        state = ElasticState(packed + 0.02 * draw(*packed.shape), 1e-3 * torch.ones_like(packed))
        return Case(qkv, rates, packed, initial_norms(weights), state, by_read)

    def exact(self) -> Case:
        """The same numbers in float64."""
        qkv, rates, packed, by_read, *state = (
            t.double() for t in (self.qkv, self.rates, self.packed, self.by_read, *self.state)
        )
        norms = tuple(norm.double() for norm in self.norms)
        return Case(qkv, rates, packed, norms, ElasticState(*state), by_read, self.steps)

    def without_newton_schulz(self) -> Case:
        """The same with the sums themselves as directions."""
        return replace(self, steps=0)

    # --- formulations: read and written weights [N, 3, D, F] from (qkv, rates, packed) ---------

    def ours(self, qkv: Tensor, rates: Tensor, packed: Tensor) -> Result:
        """This project's functions, which choose their kernels."""
        return self._ours(fast_weight.fast_weight_commit, qkv, rates, packed)

    def elastic(self, qkv: Tensor, rates: Tensor, packed: Tensor) -> Result:
        """The same with the elastic pull."""

        def commit(
            weights: Tensor, direction: Tensor, step: Tensor, norms: tuple[Tensor, ...]
        ) -> Tensor:
            moved, _ = fast_weight.elastic_commit(
                weights, direction, step, norms, _RULE, self.state
            )
            return moved

        return self._ours(commit, qkv, rates, packed)

    def _ours(self, commit: Callable[..., Tensor], qkv: Tensor, rates: Tensor, packed: Tensor):  # type: ignore[no-untyped-def]
        width = qkv.shape[-1] // 3
        sums = fast_weight.fast_weight_gradient(unpack(packed), qkv[..., width:], rates)
        optimiser = "muon" if self.steps else "sgd"
        direction = fast_weight.fast_weight_direction(sums, optimiser, max(self.steps, 1))
        moved = commit(packed, direction, rates.new_ones(len(qkv)), self.norms)
        return fast_weight.fast_weight_apply(unpack(moved), qkv[..., :width]), moved

    def plain(self, qkv: Tensor, rates: Tensor, packed: Tensor) -> Result:
        """The references in torch: in bfloat16 the error that ours is held to, in float64 exact."""
        width = qkv.shape[-1] // 3
        sums = reference.fast_weight_gradient(unpack(packed), qkv[..., width:], rates)
        direction = sums
        if self.steps:
            low = torch.bfloat16 if qkv.dtype == torch.bfloat16 else qkv.dtype
            flat = newton_schulz(sums.flatten(0, 1), self.steps, low)
            direction = flat.unflatten(0, sums.shape[:2])
        moved = reference.fast_weight_commit(
            packed, direction, rates.new_ones(len(qkv)), self.norms
        )
        return reference.fast_weight_apply(unpack(moved), qkv[..., :width]), moved

    def published(self, qkv: Tensor, rates: Tensor, packed: Tensor) -> Result:
        """published.py: products in the tokens' type."""
        query, key, value = published_prologue(qkv)
        low = PublishedWeights(*(w.to(qkv.dtype) for w in unpack(packed)))
        moved = published_update(low, key, value, rates, self.steps)
        return published_apply(moved, query), *moved

    # --- passes --------------------------------------------------------------------------------

    def forward(self, formulation: Formulation) -> Callable[[], Result]:
        """A forward pass without gradients."""

        def run() -> Result:
            with torch.no_grad():
                return formulation(self.qkv, self.rates, self.packed)

        return run

    def backward(self, formulation: Formulation) -> Callable[[], Result]:
        """Forward and the read's gradient by tokens, rates and weights."""
        leaves = [t.detach().requires_grad_() for t in (self.qkv, self.rates, self.packed)]

        def run() -> Result:
            read = formulation(*leaves)[0]
            return torch.autograd.grad(read, leaves, self.by_read)

        return run
