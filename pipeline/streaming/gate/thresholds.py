"""The write gate's limits, as data: each with its unit, its reason and what clean captures measure.

Clean captures: hololens60 (a fast walk), fox (handheld photos), gso_toy (an object on white), at
128 and 256 px. All their frames pass: `python -m everview.workflows.faults --rows 10c`; of
procedural rooms, whose walls differ more than real ones, all but 1 in 100 (`--rows 10d`). "Usual"
is the running median of a measure or the last written frame's, whichever accuses the frame less.
"""

from __future__ import annotations

from dataclasses import dataclass

from everview.pipeline.errors import UsageError


@dataclass(frozen=True)
class GateThresholds:
    """Raises UsageError for limits that no frame could meet."""

    darkest: float = 8.0
    """black: 99 of 100 pixels are below this (0 to 255). A closed lens or a decoder without a
    reference; the 99th, since a hot pixel is no picture. Clean frames: at least 180"""
    flattest: float = 2.0
    """blank: standard deviation of the luminance, levels. Sensor noise leaves less than 1 after
    resizing, a shaded wall more than 3. Clean frames: at least 24"""
    frozen: float = 0.02
    """frozen: mean absolute difference to the last picture that was written, levels. A still camera
    has noise: 2 levels of it, averaged over 8x8 pixels, leave 0.2; a repeated picture leaves 0, its
    re-encoding less than 0.02. Clean frames: at least 7"""
    blurrier: float = 0.2
    """blurred, first condition: Crete's blur measure (0 sharp, 1 flat) above what is usual by
    this. A Gaussian of 1.5 px at 128 px adds 0.3 to 0.5, fast turns of hololens60 up to 0.22"""
    sharpness: float = 0.4
    """blurred, second condition: mean absolute Laplacian over mean luminance, as a share of what is
    usual. The same Gaussian leaves 0.06 to 0.35; clean frames where the first condition holds keep
    0.46"""
    covered: float = 0.75
    """blurred, third condition: share of the frame's directions that the last written one shows; a
    camera with a field of view of 60 degrees turns by 15. In a room that is turned through by 20 to
    40 degrees a frame, a view beside two such frames was 1.5 dB worse without them (row 10b,
    seed 2: 24.14 dB, 25.66 with them and 28.32 had they been sharp)"""
    suspect_stops: float = 0.5
    """exposure, when to look: |log2| of the mean luminance against what is usual, in code values (a
    stop of light is about 0.45). Clean frames: at most 0.42"""
    reject_stops: float = 0.7
    """exposure, when a jump that can't be rectified is kept out; a smaller one may be the scene"""
    unchanged_gain: float = 1.25
    """exposure: a fitted gain between 1/this and this is no jump: it is bright there"""
    explained: float = 0.5
    """exposure: a colour fit counts when the error it leaves is at most this share of the error
    without it, and of what the reference varies about its mean"""
    misfit: float = 24.0
    """exposure: and at most so many levels, root mean square over means of 8x8 pixels: a prediction
    of a seen place is within 10 to 20"""
    clipped: float = 0.25
    """exposure: share of pixels at 0 or 255 beyond what the reference has; no gain brings them
    back, so more are rejected"""
    memory: int = 16
    """frames that the running medians look back: two chunks"""
    warm_up: int = 8
    """frames before the running medians judge: one chunk"""
    patience: int = 16
    """after so many rejections in a row the gate gives way and says so: a stream that turned dark,
    blurred or still is what there is to see. Frames that can't be written at all never pass"""

    def __post_init__(self) -> None:
        if self.warm_up < 1 or self.memory < self.warm_up:
            raise UsageError(
                f"a write gate with memory {self.memory} and warm_up {self.warm_up}: it needs "
                "memory >= warm_up >= 1"
            )
        if self.patience < 1:
            raise UsageError(f"a write gate's patience is at least 1, not {self.patience}")
