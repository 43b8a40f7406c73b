"""The state: everything a scene model carries from chunk to chunk, as one value.

A state is never written in place: `observe` returns a new one, so a session publishes by swapping
one reference and renders run beside it. It can be moved, detached, measured, and turned into plain
tensors for a snapshot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.frame_bank import FrameBank
from everview.models.gauge import Gauge
from everview.models.layers.sliding_window import FrameCells, WindowState


class StateError(ValueError):
    """A state that doesn't belong to these weights, or tensors that aren't a state."""


@dataclass(frozen=True, eq=False)
class Clock:
    """origin_s: time stamp of the stream's first timed frame, float64 [B], NaN while unknown.
    chunks: chunks absorbed, int64 [B]."""

    origin_s: Tensor
    chunks: Tensor

    def since_origin(self, time_s: Tensor | None, views: int) -> Tensor:
        """Seconds since the origin, float32 [B, V]; NaN where either is unknown."""
        if time_s is None:
            return self.origin_s.new_full((len(self.origin_s), views), torch.nan).float()
        return (time_s.to(self.origin_s) - self.origin_s[:, None]).float()

    def started(self, time_s: Tensor | None) -> Clock:
        """The clock with its origin set by the first known time of [B, V], if it had none."""
        if time_s is None:
            return self
        first = time_s.to(self.origin_s)
        first = torch.where(first.isfinite(), first, torch.inf).amin(1)
        first = torch.where(first.isfinite(), first, torch.nan)
        return replace(self, origin_s=torch.where(self.origin_s.isnan(), first, self.origin_s))

    def over_chunks(
        self, time_s: Tensor | None, chunk_views: tuple[int, ...]
    ) -> tuple[Clock, Tensor]:
        """The clock once these chunks [B, V] have come, and each view's seconds since the origin
        [B, V] as they were known when its chunk came."""
        if time_s is None:
            return self, self.since_origin(None, sum(chunk_views))
        clock, parts = self, []
        for arrived in time_s.split(list(chunk_views), dim=1):
            clock = clock.started(arrived)
            parts.append(clock.since_origin(arrived, arrived.shape[1]))
        return clock, torch.cat(parts, dim=1)

    def ticked(self, gate_B: Tensor | None) -> Clock:
        """After one more chunk (not counted where the gate is 0)."""
        more = 1 if gate_B is None else (gate_B != 0).to(self.chunks)
        return replace(self, chunks=self.chunks + more)


@dataclass(frozen=True, eq=False)
class SceneState:
    """layers: one entry a letter of the stack, batch axis first. gauge: None before the first
    chunk. bank: None before the first chunk or without one. fingerprint: of the slow weights."""

    layers: tuple[Any, ...]
    gauge: Gauge | None
    clock: Clock
    bank: FrameBank | None
    fingerprint: str


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with every tensor in it replaced by function(tensor)."""
    if isinstance(value, Tensor):
        return function(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: map_tensors(function, getattr(value, f.name)) for f in dataclasses.fields(value)
        }
        return replace(value, **fields)
    if isinstance(value, tuple):
        parts = [map_tensors(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def in_products(value: Any, products: torch.dtype) -> Any:
    """`value` with its floating-point tensors in the type of matrix products."""
    return map_tensors(lambda t: t.to(products) if t.is_floating_point() else t, value)


def all_tensors(value: Any) -> list[Tensor]:
    """Every tensor in `value`, in the order of `named_tensors`."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for part in value for tensor in all_tensors(part)]
    names = getattr(type(value), "__dataclass_fields__", ())
    return [tensor for name in names for tensor in all_tensors(getattr(value, name))]


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in `value` with its dotted path."""
    if isinstance(value, Tensor):
        yield name, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from named_tensors(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, tuple):
        names = getattr(value, "_fields", None) or [str(i) for i in range(len(value))]
        for key, part in zip(names, value, strict=True):
            yield from named_tensors(part, f"{name}.{key}")


def detach(state: SceneState) -> SceneState:
    """The state without its graph."""
    return map_tensors(Tensor.detach, state)


def to_device(state: SceneState, device: torch.device | str) -> SceneState:
    """The state on `device`."""
    return map_tensors(lambda tensor: tensor.to(device), state)


def state_bytes(state: SceneState) -> int:
    """Bytes of every tensor a state carries."""
    return sum(t.numel() * t.element_size() for t in all_tensors(state))


def state_to_tensors(state: SceneState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state as named tensors (for safetensors) and a JSON value that goes with them."""
    tensors = {name.lstrip("."): t.contiguous() for name, t in named_tensors(detach(state))}
    facts: dict[str, Any] = {
        "fingerprint": state.fingerprint,
        "gauge_rule": None,
        "bank_size": None,
    }
    if state.gauge is not None:
        facts["gauge_rule"] = state.gauge.rule
    if state.bank is not None:
        facts["bank_size"] = [state.bank.cameras.width, state.bank.cameras.height]
    return tensors, facts


def state_from_tensors(
    tensors: dict[str, Tensor], facts: dict[str, Any], template: SceneState
) -> SceneState:
    """Inverse of `state_to_tensors`; template: `model.init_state(batch)` of the same model, on
    whose device the state will be.

    Raises StateError when the slow weights differ or a tensor is missing, unexpected or misshapen.
    """
    if facts.get("fingerprint") != template.fingerprint:
        raise StateError(
            "this state was written by other weights and can't be read by these: replay the capture"
        )
    left = dict(tensors)

    def take(name: str) -> Tensor:
        if name not in left:
            raise StateError(f"the state lacks the tensor {name!r}: replay the capture")
        return left.pop(name).to(template.clock.chunks.device)

    gauge = bank = None
    if facts.get("gauge_rule") is not None:
        gauge = Gauge(
            take("gauge.rotation"), take("gauge.origin"), take("gauge.scale"), facts["gauge_rule"]
        )
    if facts.get("bank_size") is not None:
        width, height = facts["bank_size"]
        cameras = Cameras(
            width, height, take("bank.cameras.intrinsics"), take("bank.cameras.c2w_cv")
        )
        windows = [layer for layer in template.layers if isinstance(layer, WindowState)]
        tails = [
            tail for window in windows for tail in FrameCells(window.keys, window.values).kept()
        ]
        cells = tuple(take(f"bank.cells.{number}") for number in range(len(tails)))
        bank = FrameBank(take("bank.images"), cameras, take("bank.time_s"), cells)
        frames = bank.time_s.shape
        shapes = [(part.shape, part.dtype) for part in cells]
        if (
            bank.images.shape != (*frames, 3, height, width)
            or cameras.shape != frames
            or shapes != [((*frames, *tail.shape[2:]), tail.dtype) for tail in tails]
        ):
            raise StateError("the frames, cameras, times and cells of the state's bank don't match")
    rest = replace(template, gauge=None, bank=None)
    known = {name.lstrip("."): t for name, t in named_tensors(rest)}
    order = iter([(name, take(name)) for name in known])
    for name, expected in known.items():
        if tensors[name].shape != expected.shape or tensors[name].dtype != expected.dtype:
            raise StateError(
                f"tensor {name!r} of the state has another shape or type than the model's"
            )
    if left:
        raise StateError(
            f"the state holds a tensor {sorted(left)[0]!r} that the model doesn't know"
        )
    filled = map_tensors(lambda _: next(order)[1], rest)
    return replace(filled, gauge=gauge, bank=bank)
