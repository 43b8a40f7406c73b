"""The letter F: a feed-forward layer, token by token."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from everview.models.config import ModelConfig
from everview.models.layers.grid import TokenGrid
from everview.models.layers.joint import run_jointly
from everview.models.layers.plan import Plan


class FeedForward(nn.Module):
    """x + W_out gelu(W_in norm(x)), no biases."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.dim * config.feed_forward_expansion
        self.norm = nn.LayerNorm(config.dim, bias=False)
        self.expand = nn.Linear(config.dim, hidden, bias=False)
        self.contract = nn.Linear(hidden, config.dim, bias=False)

    def init_state(self, batch: int) -> tuple[()]:
        """Nothing is remembered."""
        return ()

    def forward(self, x_BVTC: Tensor) -> Tensor:
        """Tokens in, tokens out."""
        return x_BVTC + self.contract(functional.gelu(self.expand(self.norm(x_BVTC))))

    def run(
        self,
        inputs_BVTC: Tensor | None,
        queries_BVTC: Tensor | None,
        state: tuple[()],
        plan: Plan | None,
        steps_BU: Tensor | None,
        grid: TokenGrid,
    ) -> tuple[Tensor | None, Tensor | None, tuple[()]]:
        """See Layer.run; inputs and queries go through in one batch."""
        return *run_jointly(self.forward, inputs_BVTC, queries_BVTC), ()
