"""Tensors in pieces: how state is stored so that any number of ranks can take it up.

A checkpoint names every tensor after the parameter it belongs to, never after who held it. A rank
that holds a stretch of one stores it flat under `NAME@OFFSET`; reading joins the pieces of all
files, and each rank then cuts out what it holds now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor


def piece_name(name: str, offset: int) -> str:
    """The key of the piece of `name` that begins at element `offset`."""
    return f"{name}@{offset}"


def assembled(pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors by name: as stored where nothing was cut, else joined, flat.

    Raises ValueError where a stretch is missing or there twice.
    """
    whole: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for key, tensor in pieces.items():
        name, mark, offset = key.rpartition("@")
        if mark:
            parts[name][int(offset)] = tensor.flatten()
        else:
            whole[key] = tensor
    for name, found in parts.items():
        end = 0
        for first in sorted(found):
            if first != end:
                raise ValueError(f"the pieces of {name} have a gap or an overlap at {end}")
            end += found[first].numel()
        if name in whole:
            raise ValueError(f"{name} is there whole and in pieces")
        whole[name] = torch.cat([found[first] for first in sorted(found)])
    return whole


def whole_sizes(pieces: Mapping[str, Tensor]) -> dict[str, int]:
    """Elements of every whole tensor of which `pieces` holds all."""
    sizes: dict[str, int] = defaultdict(int)
    for key, tensor in pieces.items():
        name, mark, _ = key.rpartition("@")
        sizes[name if mark else key] += tensor.numel()
    return sizes


@torch.no_grad()
def load_pieces(
    own: Mapping[str, Tensor], saved: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> None:
    """Copy into the tensors of `own` (whole or pieces) what `saved` holds for them.

    sizes: elements of every whole tensor. Raises ValueError, before anything is copied, when names
    or shapes differ.
    """
    whole = assembled(saved)
    if whole.keys() != sizes.keys():
        raise ValueError(f"state names {sorted(whole)} differ from {sorted(sizes)}")
    for name, tensor in whole.items():
        if tensor.numel() != sizes[name]:
            raise ValueError(
                f"state {name} has shape {tuple(tensor.shape)}, expected {sizes[name]} elements"
            )
    for key, target in own.items():
        name, mark, offset = key.rpartition("@")
        first = int(offset) if mark else 0
        values = whole[name if mark else key].flatten()[first : first + target.numel()]
        target.copy_(values.view(target.shape))
