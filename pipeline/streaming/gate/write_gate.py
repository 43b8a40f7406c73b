"""Rectify or reject before anything is written.

Every frame gets a verdict before it joins a chunk: `accepted`, `rectified` (its exposure was taken
back to the stream's, in at most three tries for each of two references) or `rejected`, with the
reason and the measured number. A rejected frame is not written: a step of 0. When `patience` frames
in a row were rejected the next one is written all the same, and said so, and the running medians
begin anew; the idea is AgentDropout's firewall (2602.23258), with numbers for indicators.

Blur and exposure are judged by the running medians and by the last written frame, whichever says
less: a fault is there from one frame to the next, a plainer or darker wall is come to by turning.
A blurred frame is written all the same where the camera turned away from what the last written one
shows, as fast turns blur: a soft look at a place is worth more than none. It changes no median.

A frame that can't be written at all (no camera, not finite) never passes. Nor does a
picture that stays the same while its camera moves: one of the two is false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np
import torch

from everview.datasets.captures import Frame
from everview.models.state import SceneState, all_tensors, named_tensors
from everview.pipeline.streaming.arrivals import is_time
from everview.pipeline.streaming.gate import measures
from everview.pipeline.streaming.gate.exposure import agrees, rectifying_fit
from everview.pipeline.streaming.gate.measures import Look
from everview.pipeline.streaming.gate.thresholds import GateThresholds
from everview.pipeline.streaming.gate.verdicts import ACCEPTED, Judged, Verdict

Predict = Callable[[Frame], np.ndarray | None]
"""What the memory expects to be seen by a frame's camera, uint8 [H, W, 3]; None if nothing yet."""

_ONLY_LOOK = "blurred, but the camera turned"


@dataclass
class WriteGate:
    """One stream's gate. previous: the last whole frame as it came, written or held out; written:
    the last one that was written, as it was. blurs, sharpnesses, brightnesses: of the last ones
    written. in_a_row: rejected since.
    """

    limits: GateThresholds
    previous: Frame | None = None
    written: Frame | None = None
    blurs: list[float] = field(default_factory=list)
    sharpnesses: list[float] = field(default_factory=list)
    brightnesses: list[float] = field(default_factory=list)
    in_a_row: int = 0

    def judge(self, frame: Frame, predict: Predict, look: Look | None = None) -> Judged:
        """The verdict on a frame as resized; a written one becomes part of the running medians.
        look: of its image, if somebody has taken one."""
        if (reason := self.unusable(frame)) is not None:
            return Judged(frame, Verdict("rejected", reason))
        look = look or Look(frame.image)
        judged = self._repeated(frame) or self._empty(frame, look) or self._blurred(frame, look)
        judged = judged or self._exposed(frame, look, predict) or self._accepted(frame, look)
        if not judged.verdict.is_written:
            self.in_a_row += 1
            if self.in_a_row <= self.limits.patience or self._contradicts(frame):
                return judged
            judged = self._give_way(judged)
        written = judged.frame
        self._note(frame, written, look if written is frame else Look(written.image))
        return judged

    def pass_by(self, frame: Frame) -> None:
        """A usable frame that is held out: nothing of it is written, and it may come again,
        frozen."""
        self.previous = frame

    def judge_state(self, state: SceneState) -> Verdict:
        """Verdict on the state after a chunk; a state that is not finite is never published."""
        # not clocks and times: NaN means "unknown" there, and nothing that was learned is unknown
        cells = () if state.bank is None else state.bank.cells
        learned = [t for t in all_tensors((state.layers, cells)) if t.is_floating_point()]
        finite = [t.isfinite().all() for t in learned]
        # a device is waited for once, and again only to name what is wrong
        if not finite or bool(torch.stack(finite).all()):
            return ACCEPTED
        named = (*named_tensors(state.layers, "layers"), *named_tensors(cells, "bank.cells"))
        wrong = next(n for n, t in named if t.is_floating_point() and not t.isfinite().all())
        return Verdict("rejected", f"{wrong} is not finite")

    # --- one reason each; None: no objection ---

    def unusable(self, frame: Frame) -> str | None:
        """Why a frame can be neither written nor compared with; None where it can."""
        image, camera = frame.image, frame.camera
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            return "picture not finite"
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            return f"picture is {image.dtype} {list(image.shape)}, not uint8 [H, W, 3]"
        if frame.time_s is not None and not is_time(frame.time_s):
            return "time not finite" if not np.isfinite(frame.time_s) else "time out of range"
        if camera is None:
            return "no camera"
        if image.shape[:2] != (camera.height, camera.width):
            return "picture and camera differ in size"
        return None

    def _repeated(self, frame: Frame) -> Judged | None:
        if self.previous is None or self.previous.image.shape != frame.image.shape:
            return None
        measured = measures.difference(frame.image, self.previous.image)
        if measured > self.limits.frozen:
            return None
        reason = "frozen while its camera moves" if self._contradicts(frame) else "frozen"
        return Judged(frame, Verdict("rejected", reason, measured))

    def _empty(self, frame: Frame, look: Look) -> Judged | None:
        # the costly number only where the mean leaves it open: 99 % below the limit, the rest white
        is_open = look.mean < self.limits.darkest + 0.02 * 255
        if is_open and (bright := float(np.percentile(look.luma, 99))) < self.limits.darkest:
            return Judged(frame, Verdict("rejected", "black", bright))
        if look.spread < self.limits.flattest:
            return Judged(frame, Verdict("rejected", "blank", look.spread))
        return None

    def _blurred(self, frame: Frame, look: Look) -> Judged | None:
        share = self._softened(look)
        if share is None or self._turned_away(frame):
            return None
        return Judged(frame, Verdict("rejected", "blurred", share))

    def _softened(self, look: Look) -> float | None:
        """Of a blurred picture the share of the usual sharpness that is left; None for others."""
        if len(self.blurs) < self.limits.warm_up:
            return None
        softest = min(median(self.sharpnesses), self.sharpnesses[-1])
        share = look.sharpness / max(softest, 1e-6)
        added = look.blur - max(median(self.blurs), self.blurs[-1])
        is_blurred = share < self.limits.sharpness and added > self.limits.blurrier
        return share if is_blurred else None

    def _turned_away(self, frame: Frame) -> bool:
        """From the directions that the last written frame shows."""
        if self.written is None or self.written.camera is None or frame.camera is None:
            return False
        return measures.shared_directions(frame.camera, self.written.camera) < self.limits.covered

    def _exposed(self, frame: Frame, look: Look, predict: Predict) -> Judged | None:
        if len(self.brightnesses) < self.limits.warm_up or self.written is None:
            return None
        known = (median(self.brightnesses), self.brightnesses[-1])
        stops = min((look.brightness - one for one in known), key=abs)
        if abs(stops) < self.limits.suspect_stops:
            return None
        expected = predict(frame)
        drawn = [image for image in (expected, self.written.image) if image is not None]
        # the last picture may be of another size; the memory draws this one's
        references = [image for image in drawn if image.shape == frame.image.shape]
        if any(agrees(frame.image, reference, self.limits) for reference in references):
            return None
        clipped = measures.clipped_share(frame.image)
        for reference in references:
            if clipped > self.limits.clipped + measures.clipped_share(reference):
                continue
            fit = rectifying_fit(frame.image, reference, self.limits)
            if fit is not None:
                mended = replace(frame, image=fit.apply(frame.image))
                return Judged(mended, Verdict("rectified", "exposure jump", stops))
        if abs(stops) < self.limits.reject_stops:
            return None
        return Judged(frame, Verdict("rejected", "exposure jump", stops))

    def _accepted(self, frame: Frame, look: Look) -> Judged:
        share = self._softened(look)
        return Judged(frame, ACCEPTED if share is None else Verdict("accepted", _ONLY_LOOK, share))

    def _contradicts(self, frame: Frame) -> bool:
        """The same picture from another place."""
        previous = self.previous
        if previous is None or previous.camera is None or frame.camera is None:
            return False
        if previous.image.shape != frame.image.shape:
            return False
        if measures.difference(frame.image, previous.image) > self.limits.frozen:
            return False
        return not np.array_equal(frame.camera.c2w_cv, previous.camera.c2w_cv)

    def _give_way(self, judged: Judged) -> Judged:
        self.blurs, self.sharpnesses, self.brightnesses = [], [], []
        reason = f"{judged.verdict.reason}, written after {self.in_a_row - 1} rejections in a row"
        return Judged(judged.frame, Verdict("accepted", reason, judged.verdict.measured), True)

    def _note(self, came: Frame, written: Frame, look: Look) -> None:
        if self._softened(look) is None:
            _append(self.blurs, look.blur, self.limits.memory)
            _append(self.sharpnesses, look.sharpness, self.limits.memory)
        _append(self.brightnesses, look.brightness, self.limits.memory)
        self.previous, self.written = came, written
        self.in_a_row = 0

    # --- snapshots ---

    def to_facts(self) -> dict[str, Any]:
        """For a snapshot, JSON-compatible; `previous` and `written` are the caller's to keep."""
        return {
            "blurs": self.blurs,
            "sharpnesses": self.sharpnesses,
            "brightnesses": self.brightnesses,
            "in_a_row": self.in_a_row,
        }

    def restore(
        self, facts: Mapping[str, Any], previous: Frame | None, written: Frame | None
    ) -> None:
        """Go on from `to_facts`."""
        for name in ("blurs", "sharpnesses", "brightnesses"):
            setattr(self, name, [float(value) for value in facts[name]])
        self.in_a_row = int(facts["in_a_row"])
        self.previous, self.written = previous, written


def _append(running: list[float], value: float, memory: int) -> None:
    running.append(value)
    del running[:-memory]
