"""What `everview evaluate` can be told; the resolved value in `run.json` repeats the run."""

from __future__ import annotations

from dataclasses import dataclass

from everview.models.weights import DEFAULT_WEIGHTS
from everview.pipeline.errors import UsageError
from everview.pipeline.evaluation.protocols import PROTOCOLS

# Everything is compared at multiples of the model's patch.
_PATCH = 8


@dataclass(frozen=True)
class EvaluationConfig:
    """A capture, a protocol or shards. Raises UsageError with value, limit and reason."""

    capture: str | None = None
    """a folder, a file or a procedural:// URL"""
    protocol: str | None = None
    """a named set of scenes instead of one capture: procedural"""
    shards: str | None = None
    """judge every scene of a set that `everview prepare` made"""
    inputs: int | None = None
    """observe N frames spread over the capture as one set and judge the rest
    (default: hold out every 8th frame and stream the rest in chunks of 8)"""
    size: int = 128
    """side of the square pictures, pixels"""
    scenes: int = 8
    """scenes of a protocol"""
    chunks: tuple[int, ...] | None = None
    """also observe the same inputs in so many chunks, to measure the gap between set and
    chunk_causal (default: 1 4 8 for a protocol, none for a capture)"""
    weights: str = DEFAULT_WEIGHTS
    """published name, folder, or URL#hash"""
    lpips_backbone: str | None = None
    """file with AlexNet's convolutions for LPIPS"""
    pictures: int = 24
    """held-out views of a capture kept as pictures (all of them are measured)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""

    def __post_init__(self) -> None:
        if sum(which is not None for which in (self.capture, self.protocol, self.shards)) != 1:
            raise UsageError(
                "evaluate needs one of --capture CAPTURE, --protocol NAME and --shards SET"
            )
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise UsageError(
                f"there is no protocol {self.protocol!r}; there is {', '.join(PROTOCOLS)}"
            )
        if self.size < 16 or self.size % _PATCH:
            raise UsageError(f"--size {self.size}: a multiple of {_PATCH}, at least 16")
        if self.inputs is not None and self.inputs < 1:
            raise UsageError(f"--inputs {self.inputs}: at least 1")
        if self.scenes < 1:
            raise UsageError(f"--scenes {self.scenes}: at least 1")
        if self.pictures < 0:
            raise UsageError(f"--pictures {self.pictures}: 0 for none, or more")
        if self.chunks is not None and min(self.chunks, default=1) < 1:
            raise UsageError(f"--chunks {' '.join(map(str, self.chunks))}: each at least 1")
