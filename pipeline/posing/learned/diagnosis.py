"""Where `--poses learned` errs on a capture whose poses are known, and which part of it does.

    python -m everview.pipeline.posing.learned.diagnosis CAPTURE [--weights NAME|DIR] [--out FILE]

A frame's pose is made of matches and of depths. Matches can be judged without depths: by their
distance from the epipolar lines of the known motion. So a wrong pose says whose fault it was:
little was shared, the matches were off their lines, or they were on them and the fit went wrong.
Scale is the length of a found step over the known one; where it changes along a stream, it drifts.
Where a frame's depth is known, so is how far its keyframe's depths are off.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from everview.datasets.captures import Frame
from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from everview.models.pairs.config import STRIDE
from everview.models.pairs.files import DEFAULT_PAIRS, load_matcher
from everview.models.pairs.geometry import inverse_rigid, rotation_error
from everview.models.pairs.locating import Sighting
from everview.models.pairs.matcher import points_of
from everview.models.pairs.two_view import essential, line_distance
from everview.models.weight_files import WeightsError
from everview.pipeline.posing.learned.keyframes import Keyframe
from everview.pipeline.posing.learned.odometer import LearnedOdometer
from everview.pipeline.runs.atomic import write_json

_LITTLE = 0.15  # share of a keyframe that must be seen for matches to be expected
_OFF_LINES_PX = 2.0
_BENT_DEG = 5.0


@dataclass(frozen=True)
class Step:
    """A frame against the keyframe that says most of it. problem: why it is lost, else None.

    shared, support: as the odometer saw them. turned_deg: truly, from the keyframe. line_px: median
    distance of the surer half of the matches from their true epipolar lines, pixels of matching.
    turn_error_deg, shift_error_deg: of the pose that the keyframe says. scale: length of its shift
    over the known one. The last four are null where the camera didn't truly move.
    """

    name: str
    problem: str | None
    keyframe: str
    shared: float
    support: float
    turned_deg: float
    turn_error_deg: float
    line_px: float | None = None
    shift_error_deg: float | None = None
    scale: float | None = None

    @property
    def cause(self) -> str:
        """`fine`, or what is wrong first: `shared`, `matches`, `fit`."""
        if self.problem is None and self.turn_error_deg < _BENT_DEG:
            return "fine"
        if self.shared < _LITTLE:
            return "shared"
        return "matches" if (self.line_px or 0.0) > _OFF_LINES_PX else "fit"


@dataclass(frozen=True)
class Depths:
    """A new keyframe's, against known ones: log_scale, median of log(found / known); off, median
    distance of those logarithms from it; seen_off, the same of what the network sees alone."""

    name: str
    log_scale: float
    off: float
    seen_off: float


def diagnose(odometer: LearnedOdometer, frames: Iterator[Frame]) -> Iterator[Step | Depths]:
    """What becomes of frames with known cameras, as they come; the first frame is the world."""
    known: dict[int, Tensor] = {}
    for frame in frames:
        assert frame.camera is not None
        known[frame.index] = inverse_rigid(torch.from_numpy(frame.camera.c2w_cv.copy()).double())
        before = dict(odometer.keyframes)
        problem = odometer.pose(frame).problem
        if odometer.sightings:
            yield _step(frame, problem, odometer.sightings, before, known)
        newest = odometer.keyframes[max(odometer.keyframes)] if odometer.keyframes else None
        is_new = newest is not None and newest.frame.index == frame.index
        if newest is not None and is_new and frame.depth is not None:
            told = _depths(newest, frame.name, frame.depth)
            if told is not None:
                yield told
        kept = {key.frame.index for key in odometer.keyframes.values()}
        known = {index: pose for index, pose in known.items() if index in kept}


def _step(
    frame: Frame,
    problem: str | None,
    sightings: tuple[Sighting, ...],
    keyframes: Mapping[int, Keyframe],
    known: Mapping[int, Tensor],
) -> Step:
    # of a lost frame the keyframe that should have known it, of another the one that was believed
    said = max(sightings, key=lambda one: one.trust if problem is None else one.shared)
    key = keyframes[said.place]
    true = known[frame.index] @ inverse_rigid(known[key.frame.index])
    found = said.w2c @ inverse_rigid(key.reference.w2c)
    shift, told = true[:3, 3], found[:3, 3]
    line = aside = scale = None
    if float(shift.norm()) > 1e-9:
        distance = line_distance(key.reference.rays, said.target, essential(true)).sqrt()
        surer = said.weight >= said.weight.median()
        line = float(distance[surer].median() * key.reference.intrinsics[0])
        cosine = torch.cosine_similarity(shift, told, dim=0, eps=1e-12)
        aside = float(cosine.clamp(-1, 1).acos().rad2deg())
        scale = float(told.norm() / shift.norm())
    eye = torch.eye(3, dtype=true.dtype)
    return Step(
        name=frame.name,
        problem=problem,
        keyframe=key.frame.name,
        shared=said.shared,
        support=said.support,
        turned_deg=float(rotation_error(eye, true[:3, :3]).rad2deg()),
        turn_error_deg=float(rotation_error(true[:3, :3], found[:3, :3]).rad2deg()),
        line_px=line,
        shift_error_deg=aside,
        scale=scale,
    )


def _depths(key: Keyframe, name: str, depth: np.ndarray) -> Depths | None:
    (height, width), (rows, columns) = key.reference.size, depth.shape
    points = points_of(height // STRIDE, width // STRIDE, STRIDE).flatten(0, 1).numpy()
    u = (points[:, 0] * columns / width).astype(int)
    v = (points[:, 1] * rows / height).astype(int)
    true = torch.from_numpy(depth[v, u].astype(np.float64))
    is_known = true > 0
    if not bool(is_known.any()):
        return None
    seen = key.reference.code.log_depth.cpu().flatten().double()
    off = (-key.reference.rho.log() - true.log())[is_known]
    alone = (seen - true.log())[is_known]
    return Depths(name, float(off.median()), _spread(off), _spread(alone))


def _spread(values: Tensor) -> float:
    return float((values - values.median()).abs().median())


def _line(told: Step | Depths) -> str:
    if isinstance(told, Depths):
        return (
            f"{told.name}: a keyframe; depths off by {told.off:.1%} (seen alone: "
            f"{told.seen_off:.1%}), scale {np.exp(told.log_scale):.3f}"
        )
    from_lines = "nothing moved" if told.line_px is None else f"{told.line_px:.1f} px off the lines"
    moved = "" if told.scale is None else (
        f", shift {told.shift_error_deg:.0f} degrees off, scale {told.scale:.3f}"
    )  # fmt: skip
    return (
        f"{told.name}: {told.cause if told.problem is None else 'lost, ' + told.cause}; shares "
        f"{told.shared:.0%} of {told.keyframe}, {told.turned_deg:.0f} degrees away; {from_lines}; "
        f"turn {told.turn_error_deg:.1f} degrees off{moved}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print a line a frame and a summary; 0 when there was something to compare."""
    parser = argparse.ArgumentParser(prog="diagnosis", description=__doc__.splitlines()[0])
    parser.add_argument("capture")
    parser.add_argument("--weights", default=DEFAULT_PAIRS)
    parser.add_argument("--out", type=Path, help="the same as JSON")
    given = parser.parse_args(arguments)
    try:
        frames = (frame for frame in open_capture(given.capture) if frame.camera is not None)
        odometer = LearnedOdometer(matcher=load_matcher(given.weights))
        told = []
        for one in diagnose(odometer, frames):
            told.append(one)
            print(_line(one), flush=True)
    except (DataError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 3
    steps = [one for one in told if isinstance(one, Step)]
    causes = Counter(("lost: " if one.problem else "") + one.cause for one in steps)
    errors = odometer.errors.measure("Sim3")
    if errors is None:
        print(f"{given.capture}: fewer than three frames with known poses", file=sys.stderr)
        return 3
    print(
        f"{len(steps)} frames: {json.dumps(causes)}; ATE {errors.ate_rmse:.3f} = "
        f"{errors.ate_share_of_path:.2%} of {errors.path_length:.1f}"
    )
    if given.out is not None:
        rows = [{**asdict(one), **({"cause": one.cause} if isinstance(one, Step) else {})}
                for one in told]  # fmt: skip
        write_json(given.out, {"capture": Path(given.capture).name, "causes": causes,
                               "errors": asdict(errors), "frames": rows})  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
