"""Host memory that checkpoints are staged in, kept from one commit to the next.

Fresh memory is slow to copy into: the system makes each page when it is first written, and a GPU
copies into pages that aren't pinned through small buffers of its driver. So the first `fill` makes
the memory, which takes longer than its copy; the later ones only copy, from a GPU as fast as the
bus is. What is kept is one copy of the state, as long as the `Staging` lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from everview.pipeline.training.checkpoints import Files, Warn

AREA_BYTES = 1 << 26
"""A power of two: torch rounds each piece of pinned memory up to one."""
ALIGNMENT = 64
"""Bytes; a multiple of every dtype's size."""


@dataclass(frozen=True)
class Form:
    """What decides where a tensor's copy lies."""

    shape: torch.Size
    dtype: torch.dtype
    on_gpu: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """The form of `tensor`."""
        return cls(tensor.shape, tensor.dtype, tensor.is_cuda)

    @property
    def bytes(self) -> int:
        """Of a contiguous copy."""
        return self.shape.numel() * self.dtype.itemsize


class HostMemory:
    """Areas of host memory: pinned for what comes from a GPU, as long as that can be had."""

    def __init__(self, warn: Warn) -> None:
        """warn: hears, once, that memory can't be pinned."""
        self._warn, self._pins = warn, True

    def area(self, size: int, for_gpu: bool) -> Tensor:
        """`size` bytes, uint8, on a boundary of `ALIGNMENT`; what they hold is undefined."""
        if for_gpu and self._pins:
            try:
                return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)
            except RuntimeError as error:
                self._pins = False
                reason = str(error).partition("\n")[0]
                self._warn(f"checkpoints take longer to stage: memory can't be pinned ({reason})")
        return torch.empty(size, dtype=torch.uint8, device="cpu")


class Area:
    """A piece of host memory, given away from its begin on."""

    def __init__(self, memory: Tensor, for_gpu: bool) -> None:
        self._memory, self._for_gpu, self._used = memory, for_gpu, 0

    def fits(self, form: Form) -> bool:
        """Whether a tensor of this form goes here."""
        return self._for_gpu == form.on_gpu and self._used + form.bytes <= len(self._memory)

    def take(self, form: Form) -> Tensor:
        """A contiguous tensor of this form; what it holds is undefined."""
        piece = self._memory[self._used : self._used + form.bytes]
        used = self._used + form.bytes
        self._used = min(used + -used % ALIGNMENT, len(self._memory))
        return piece.view(form.dtype).view(form.shape)


class Staging:
    """Copies of tensors, each time in the same host memory while names and forms are the same."""

    def __init__(self, warn: Warn) -> None:
        """warn: hears, once, that memory can't be pinned."""
        self._memory = HostMemory(warn)
        self._forms: dict[str, dict[str, Form]] = {}
        self._places: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def fill(self, tensors: Files) -> Files:
        """Copies of `tensors` (any strides, dtypes and devices) as they are now: contiguous, in
        host memory, no two overlapping. They hold until the next `fill`, which overwrites them.

        Blocks until all are there. Raises what torch does when memory is short.
        """
        forms = {
            kind: {name: Form.of(tensor) for name, tensor in values.items()}
            for kind, values in tensors.items()
        }
        if forms != self._forms:
            self._forms, self._places = {}, {}  # the old memory goes before the new comes
            self._places = _laid_out(forms, self._memory)
            self._forms = forms
        devices = set()
        for kind, values in tensors.items():
            for name, tensor in values.items():
                self._places[kind][name].copy_(tensor, non_blocking=tensor.is_cuda)
                if tensor.is_cuda:
                    devices.add(tensor.device)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return self._places


def _laid_out(
    forms: Mapping[str, Mapping[str, Form]], memory: HostMemory
) -> dict[str, dict[str, Tensor]]:
    """A place for every tensor: the large ones first, each in the first area with room for it."""
    wanted = [(form, kind, name) for kind, values in forms.items() for name, form in values.items()]
    places: dict[str, dict[str, Tensor]] = {kind: {} for kind in forms}
    areas: list[Area] = []
    for form, kind, name in sorted(wanted, key=lambda want: want[0].bytes, reverse=True):
        area = next((area for area in areas if area.fits(form)), None)
        if area is None:
            size = max(AREA_BYTES, 1 << (form.bytes - 1).bit_length())
            area = Area(memory.area(size, form.on_gpu), form.on_gpu)
            areas.append(area)
        places[kind][name] = area.take(form)
    return places
