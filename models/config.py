"""The model's configuration: frozen, complete, and the same data in code, flags and files."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from everview.models import elastic as _elastic
from everview.models import steps as _steps
from everview.models.elastic import Elastic
from everview.models.steps import InverseSqrtStep, StepPolicy

SHARED_BY = 0.75
"""share of the compared frames that see what a range of depths is for"""


@dataclass(frozen=True)
class BankConfig:
    """The frame bank: source frames kept in the state, and how a query uses them."""

    capacity: int = 64
    """frames kept, chosen by coverage"""
    compared: int = 6
    """nearest frames whose agreement says how deep a query's patches lie"""
    sources: int = 4
    """nearest frames that a query copies from, at most as many as are compared"""
    hypotheses: int = 32
    """depths tried at every patch, evenly spaced in log depth where most sources look"""
    near: float = 0.2
    """nearest depth tried, in gauge units (the scene's median depth is about 1)"""
    far: float = 16.0
    """farthest depth tried, in gauge units"""
    features: int = 32
    """channels of the matching features"""
    groups: int = 8
    """groups of channels whose variance over the sources is kept"""
    refine_channels: int = 32
    """width of the full-resolution blending network"""
    refine_offsets: tuple[float, ...] = (-0.6, -0.3, 0.0, 0.3, 0.6)
    """offsets around the predicted log depth at which colour is copied, in steps between two
    hypotheses"""
    pair_powers: tuple[float, ...] = field(default=(), repr=False)
    """of every mean over pairs of the compared frames, whose agreement survives occlusion
    (`pair_agreement`): how much near pairs count at first; none: the variance over all is all"""
    far_shared_by: float = field(default=SHARED_BY, repr=False)
    """the same share for the range's far end alone: what stands on a table has the ground behind
    it, which fewer frames see"""
    fine_offsets: tuple[float, ...] = field(default=(), repr=False)
    """where every block of 2 x 2 pixels looks for agreement around the predicted log depth
    (`fine_sweep`), in steps between two hypotheses; none: depth is the tokens'"""
    fine_features: int = field(default=8, repr=False)
    """channels of the features at half of the resolution that it compares"""
    fine_channels: int = field(default=64, repr=False)
    """width of its network at blocks"""
    fine_returned: int = field(default=16, repr=False)
    """features that it gives the copy"""
    warped: int = field(default=0, repr=False)
    """nearest frames that a query's tokens see where the first opinion of depth puts them, in
    blocks of 2 x 2 pixels (`warped_blocks`); needs the fine sweep, whose features have them"""

    def __post_init__(self) -> None:
        if not 1 <= self.sources <= self.compared:
            raise ValueError(
                f"a query copies from {self.sources} frames of the {self.compared} it compares: "
                "from at least 1, and from none that it doesn't compare"
            )
        if not 0 < self.far_shared_by <= 1:
            raise ValueError(f"far_shared_by {self.far_shared_by}: a share, over 0 and at most 1")
        if any(a + b for a, b in zip(self.fine_offsets, reversed(self.fine_offsets), strict=True)):
            raise ValueError(
                f"fine_offsets {self.fine_offsets}: symmetric, or depths begin somewhere else"
            )
        if self.warped and not (self.fine_offsets and 0 < self.warped <= self.compared):
            raise ValueError(
                f"warped {self.warped}: 0 to the {self.compared} frames that are compared, and 0 "
                "without fine_offsets"
            )
        if self.hypotheses < 2:
            raise ValueError(f"hypotheses {self.hypotheses}: depths are told apart from 2 on")


@dataclass(frozen=True)
class WindowConfig:
    """The letter S: which frames it sees, and how much of each.

    The defaults fit episodes of 8 inputs, in which every age and both sinks then occur, and make a
    layer's state as large as two layers of fast weights at the default width: 8 frames, 64 cells.
    A bank keeps half as many bytes of each of its frames beside it.
    """

    frames: int = 6
    """the last frames, seen at their age"""
    sinks: int = 2
    """the first frames, seen for ever: they fixed gauge and scale"""
    cells: int = 8
    """rows, and columns, of cells that a frame's tokens are averaged into, whatever its size"""

    @property
    def slots(self) -> int:
        """Frames that are seen at most."""
        return self.frames + self.sinks

    def __post_init__(self) -> None:
        if self.frames < 1 or self.sinks < 0 or self.cells < 1:
            raise ValueError(f"{self}: at least 1 frame, 0 sinks and 1 cell")


@dataclass(frozen=True)
class ModelConfig:
    """A scene model. Raises ValueError with value, limit and reason."""

    stack: str = "WTF" * 10
    """one letter a layer: W window attention, T fast-weight memory, F feed-forward, S sliding
    window over time"""
    dim: int = 256
    """width of a token"""
    patch: int = 8
    """side of a square patch, pixels; images are multiples of it"""
    tokens_a_view: int | None = field(default=256, repr=False)
    """most tokens of a view: larger ones are reduced before tokens are made of them
    (`token_views`); None: a token for every patch, whatever a view's size"""
    attention_head_dim: int = 64
    memory_heads: int = 1
    memory_expansion: int = 2
    """hidden width of the fast weights over their head width (r)"""
    memory_writes: tuple[str, ...] = ("w1",)
    """matrices that a chunk writes; the others stay as learned"""
    memory_optimiser: Literal["muon", "sgd"] = "muon"
    newton_schulz_steps: int = 5
    memory_momentum: bool = False
    base_rate: float = 0.01
    """per-token learning rate at initialisation"""
    step: StepPolicy = InverseSqrtStep()  # noqa: RUF009 (frozen)
    elastic: Elastic | None = None
    feed_forward_expansion: int = 4
    time_periods: int = 12
    """log-spaced periods of the time code, 0.1 s to 3 h"""
    bank: BankConfig | None = BankConfig()
    window: WindowConfig = field(default=WindowConfig(), repr=False)
    """of the letter S, where the stack has it"""
    foot_code: bool = field(default=True, repr=False)
    """whether rays say where they pass the likely focus (`rays.foot_code`), beside their Pluecker
    coordinates"""
    cross_view: int = field(default=0, repr=False)
    """layers of attention from a query's tokens to the frames that it is compared with, spread
    evenly between the stack's blocks"""

    def __post_init__(self) -> None:
        if self.dim % self.attention_head_dim:
            raise ValueError(
                f"dim {self.dim} is not a multiple of attention_head_dim {self.attention_head_dim}"
            )
        if self.tokens_a_view is not None and self.tokens_a_view < 1:
            raise ValueError(f"tokens_a_view {self.tokens_a_view}: at least 1, or None for all")
        if self.dim % self.memory_heads:
            raise ValueError(
                f"dim {self.dim} is not a multiple of memory_heads {self.memory_heads}"
            )
        unknown = set(self.memory_writes) - {"w0", "w1", "w2"}
        if unknown or not self.memory_writes:
            raise ValueError(f"memory_writes {self.memory_writes}: some of w0, w1, w2")
        if self.attention_head_dim % 4:
            raise ValueError(
                f"attention_head_dim {self.attention_head_dim}: rotary codes need a multiple of 4"
            )
        if self.memory_optimiser not in ("muon", "sgd"):
            raise ValueError(f"memory_optimiser {self.memory_optimiser!r}: muon or sgd")
        if not self.base_rate > 0:
            raise ValueError(f"base_rate {self.base_rate} is not positive")
        if self.bank is not None and self.bank.features % self.bank.groups:
            raise ValueError(
                f"{self.bank.features} features can't be cut into {self.bank.groups} equal groups"
            )
        if self.bank is not None and self.bank.fine_offsets and self.patch % 8:
            raise ValueError(f"patch {self.patch}: the fine sweep needs a multiple of 8")
        if self.newton_schulz_steps < 1:
            raise ValueError("newton_schulz_steps must be at least 1; for plain SGD say sgd")
        if "S" in self.stack and self.attention_head_dim < 8:
            raise ValueError(
                f"attention_head_dim {self.attention_head_dim}: rotary codes of rows, columns and "
                "time need 8"
            )
        if self.cross_view < 0 or (self.cross_view and self.bank is None):
            raise ValueError(
                f"cross_view {self.cross_view}: not negative, and without a bank there are no "
                "frames to look at"
            )
        if self.cross_view and (self.attention_head_dim % 8 or self.patch % 4):
            raise ValueError(
                f"attention_head_dim {self.attention_head_dim} and patch {self.patch}: attention "
                "across views needs multiples of 8 and 4"
            )

    def token_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of a view of so many pixels. Of a view that is reduced the
        shorter side is rounded down, and the longer in proportion, to whole tokens. Raises
        ValueError unless both sides are multiples of the patch."""
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"image of {width}x{height} is not a multiple of the {self.patch} pixel patch"
            )
        rows, columns, most = height // self.patch, width // self.patch, self.tokens_a_view
        if most is None or rows * columns <= most:
            return rows, columns
        short, long = sorted((rows, columns))
        # a whole number's root may come out just under itself
        fewer = max(1, math.floor(math.sqrt(most * short / long) + 1e-9))
        grid = fewer, min(most // fewer, round(fewer * long / short))
        return grid if rows == short else (grid[1], grid[0])

    @property
    def window_used(self) -> WindowConfig | None:
        """The window of a stack that has one."""
        return self.window if "S" in self.stack else None

    @property
    def identity(self) -> str:
        """What fingerprints are made of. What a model goes without has no part in its name, so
        weights from before there was such a thing keep theirs; views that are reduced have."""
        parts = [repr(self)] if self.window_used is None else [repr(self), repr(self.window)]
        if self.tokens_a_view is not None:
            parts.append(f"tokens_a_view={self.tokens_a_view}")
        if not self.foot_code:
            parts.append("foot_code=False")
        if self.cross_view:
            parts.append(f"cross_view={self.cross_view}")
        if self.bank is not None and self.bank.pair_powers:
            parts.append(f"pair_powers={self.bank.pair_powers}")
        if self.bank is not None and self.bank.far_shared_by != SHARED_BY:
            parts.append(f"far_shared_by={self.bank.far_shared_by}")
        if self.bank is not None and self.bank.fine_offsets:
            fine = self.bank.fine_features, self.bank.fine_channels, self.bank.fine_returned
            parts.append(f"fine={self.bank.fine_offsets}, {fine}")
        if self.bank is not None and self.bank.warped:
            parts.append(f"warped={self.bank.warped}")
        return ", ".join(parts)


def tiny() -> ModelConfig:
    """For tests and the one-minute recipe: 2 x WTF at 64."""
    bank = BankConfig(hypotheses=16, features=16, groups=4, refine_channels=16)
    return ModelConfig(stack="WTF" * 2, dim=64, attention_head_dim=32, bank=bank)


def base15m() -> ModelConfig:
    """10 x WTF at 256, about 15M parameters: 14.7 MiB at 8 bits a row."""
    return ModelConfig()


def base33m() -> ModelConfig:
    """The size most low-budget LaCT figures are quoted for: 10 x WTF at 384."""
    return ModelConfig(dim=384)


def base312m() -> ModelConfig:
    """The published size: 24 x WTF at 768, all three matrices written at full step, no bank."""
    return ModelConfig(
        stack="WTF" * 24,
        dim=768,
        memory_writes=("w0", "w1", "w2"),
        step=_steps.ConstantStep(),
        bank=None,
        tokens_a_view=None,
    )


_POLICIES = {
    cls.__name__: cls
    for cls in (
        BankConfig, WindowConfig, Elastic, _steps.ConstantStep, _steps.InverseSqrtStep,
        _elastic.MemoryAwareSynapses, _elastic.ElasticWeightConsolidation,
        _elastic.SynapticIntelligence, _elastic.FixedAnchor, _elastic.StreamingAnchor,
        _elastic.StreamingEmaAnchor,
    )
}  # fmt: skip


def config_to_dict(config: Any) -> Any:
    """A JSON value; a policy carries its class name under `kind`."""
    if dataclasses.is_dataclass(config):
        fields = {
            f.name: config_to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)
        }
        kind = type(config).__name__
        return {"kind": kind, **fields} if kind in _POLICIES else fields
    return list(config) if isinstance(config, tuple) else config


def config_from_dict(data: dict[str, Any]) -> ModelConfig:
    """Inverse of `config_to_dict`. Raises ValueError on keys or policies that don't exist."""
    return _build(ModelConfig, data)


def _build(cls: type, data: dict[str, Any]) -> Any:
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = set(data) - known
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {sorted(unknown)[0]!r}")
    return cls(**{name: _value(value) for name, value in data.items()})


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        kind = value.get("kind")
        if kind not in _POLICIES:
            raise ValueError(f"unknown policy {kind!r}; known: {', '.join(sorted(_POLICIES))}")
        return _build(_POLICIES[kind], {k: v for k, v in value.items() if k != "kind"})
    return tuple(value) if isinstance(value, list) else value
