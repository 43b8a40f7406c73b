"""The CUDA path: every pixel of every view in one hand-written kernel, built when first used.

torch.compile fuses the eager formulation into the same arithmetic, but needs minutes to do so;
NVRTC builds this source in seconds, and a ray leaves out bodies whose bounding ball it misses. The
eager functions remain the definition: tests compare the two pixel by pixel, on the GPU and, with
the source compiled as C++, on the CPU.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from everview.datasets.procedural import (
    frames,
    kernel_appearance,
    kernel_geometry,
    relief,
    scenes,
    textures,
    tracing,
)
from everview.datasets.procedural.frames import ViewTable
from everview.datasets.procedural.materials import COLUMN, COLUMNS, KIND

_BODY_SLICES = (
    "DIRECTION", "ORIGIN", "HALF", "LIGHT", "QUADRIC", "TAPER",
    "CUT_CENTRE", "CUT_INVERSE", "CUT_QUADRIC", "BALL",
)  # fmt: skip
_VIEW_SLICES = (
    "FOCAL", "LIGHT_AT", "UP", "FILL_FROM", "TURN", "KEY",
    "SKY", "GROUND", "FILL", "SCALARS", "RELIEF", "WALLS",
)  # fmt: skip
# Threads are pixels of square tiles.
_TILE = 16
# Views of one launch: the grid's second axis ends at 65,535.
_LAUNCH_VIEWS = 32768


def source() -> str:
    """The whole CUDA source: constants taken from the Python tables, then the two halves."""
    numbers: dict[str, int | str] = {
        name: getattr(frames, name).start for name in (*_BODY_SLICES, *_VIEW_SLICES)
    }
    numbers |= {f"KIND_{name.upper()}": code for name, code in KIND.items()}
    numbers |= {f"COLUMN_{name.upper()}": position for name, position in COLUMN.items()}
    for name in ("BODIES", "SHELL_ROW", "RELIEF_ROW", "SKY_ROW", "RELIEF_POSE", "SHELL_POSE"):
        numbers[name] = getattr(scenes, name)
    numbers |= {
        "POSES": scenes.BODIES + 2,
        "BODY_COLUMNS": frames.BODY_COLUMNS,
        "VIEW_COLUMNS": frames.VIEW_COLUMNS,
        "MATERIAL_COLUMNS": len(COLUMNS),
        "MARCH_STEPS": relief.STEPS,
        "MARCH_REFINEMENTS": relief.REFINEMENTS,
        "SHADOW_BIAS": f"{tracing.SHADOW_BIAS}f",
        "FINENESS": "{" + ", ".join(f"{v}f" for v in textures.FINENESS) + "}",
        "MEAN": "{" + ", ".join(f"{v}f" for v in textures.MEAN) + "}",
        "HUGE": "1e30f",
    }
    # CUDA's own headers may know some of these names
    header = "".join(f"#undef {k}\n#define {k} {v}\n" for k, v in numbers.items())
    return header + kernel_geometry.SOURCE + kernel_appearance.SOURCE


@functools.cache
def _built(device_index: int) -> Callable:
    with torch.cuda.device(device_index):
        return torch.cuda._compile_kernel(source(), "render_pixels")


@functools.cache
def is_available(device: torch.device) -> bool:
    """Whether CUDA source can be built for `device`; says once if it can't on an NVIDIA GPU."""
    if device.type != "cuda":
        return False
    # torch looks for CUDA's headers there, though this source includes none
    has_home = importlib.import_module("torch.utils.cpp_extension").CUDA_HOME is not None
    if has_home and torch.version.hip is None and hasattr(torch.cuda, "_compile_kernel"):
        return True
    warnings.warn(
        "procedural views are rendered eagerly, a hundred times slower than by the CUDA kernel: it "
        "needs an NVIDIA GPU and CUDA_HOME",
        stacklevel=3,
    )
    return False


def arguments(table: ViewTable, images: Tensor, depth: Tensor, side: int) -> list:
    """Kernel arguments for a table of M views in float32: rows contiguous, one thread a pixel."""
    height, width = depth.shape[1:]
    return [
        table.body.permute(1, 2, 0).contiguous(),
        table.view.T.contiguous(),
        table.material_base.contiguous(),
        table.material.T.contiguous(),
        images,
        depth,
        width,
        height,
        side,
    ]


def render(table: ViewTable, width: int, height: int, side: int) -> tuple[Tensor, Tensor]:
    """uint8 [M, H, W, 3] and float32 [M, H, W] of every view; side^2 samples a pixel."""
    device = table.view.device
    total = table.view.shape[1]
    images = torch.empty(total, height, width, 3, dtype=torch.uint8, device=device)
    depth = torch.empty(total, height, width, dtype=torch.float32, device=device)
    index = torch.cuda.current_device() if device.index is None else device.index
    tiles = ((width + _TILE - 1) // _TILE) * ((height + _TILE - 1) // _TILE)
    with torch.cuda.device(index):
        for start in range(0, total, _LAUNCH_VIEWS):
            part = slice(start, start + _LAUNCH_VIEWS)
            chunk = ViewTable(
                table.body[:, part], table.view[:, part], table.material_base[part], table.material
            )
            values = arguments(chunk, images[part], depth[part], side)
            grid = (tiles, len(values[2]), 1)
            _built(index)(grid=grid, block=(_TILE * _TILE, 1, 1), args=values)
    return images, depth
