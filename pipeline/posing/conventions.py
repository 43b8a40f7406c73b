"""Camera poses in another convention than their file's: found by evidence, named, never guessed.

A matrix can be camera-to-world or world-to-camera, with OpenCV or OpenGL axes. Neighbouring frames
say which it is: by depth, one warped into the other agrees or doesn't; without depth, matched
features lie on each other's epipolar lines and in front of both cameras, or don't. Only when the
poses as read are refuted and exactly one other reading explains the frames is that one named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from everview.datasets.cameras import Camera, invert_rigid, opencv_from_opengl
from everview.datasets.captures import Capture, Frame
from everview.datasets.errors import DataError
from everview.datasets.formats import opencv_cameras, realestate10k, transforms_json
from everview.datasets.listed import ListedCapture
from everview.datasets.resampling import fit_frame
from everview.pipeline.errors import EnvironmentUnfit
from everview.pipeline.posing.agreement import agreement, known_depth
from everview.pipeline.posing.features import FeatureMatcher, Features
from everview.pipeline.posing.trajectory_errors import rotation_angle

Reading = Callable[[np.ndarray], np.ndarray]

# From a matrix as a file holds it to c2w_cv. The OpenGL flip is its own inverse.
READINGS: dict[str, Reading] = {
    "camera-to-world with OpenCV axes": lambda matrix: matrix,
    "camera-to-world with OpenGL axes": opencv_from_opengl,
    "world-to-camera with OpenCV axes": invert_rigid,
    "world-to-camera with OpenGL axes": lambda matrix: opencv_from_opengl(invert_rigid(matrix)),
}
_C2W_CV, _C2W_GL, _W2C_CV, _ = READINGS

# How each format's reader takes them, where it is not as camera-to-world with OpenCV axes. (COLMAP
# writes its own files.)
_STATED = {
    transforms_json.FORMAT: _C2W_GL,
    opencv_cameras.FORMAT: _W2C_CV,
    realestate10k.FORMAT: _W2C_CV,
}

_PLACES = 3  # in the capture, each with two neighbours
_SHORT_SIDE = 240
# Scores: below the first the poses as read are refuted, from the second on another reading explains
# the frames; a pair that no reading explains by the third (no overlap, motion) is no evidence.
_REFUTED, _EXPLAINED, _EVIDENCE = 0.5, 0.6, 0.3
_LEAST_PAIRS = 2
_LEAST_MATCHES = 16
_LEAST_TURN = np.radians(1.0)  # less is explained by every reading, within what can be measured
_PIXELS = 2.0


@dataclass(frozen=True)
class ConventionCheck:
    """scores: of each reading, 0 to 1, the mean over `pairs` of neighbouring frames; empty where
    there was no evidence. evidence: what it was, in words. warning: one sentence, or None."""

    pairs: int
    evidence: str
    scores: dict[str, float]
    warning: str | None = None


def check_conventions(capture: Capture) -> ConventionCheck | None:
    """Look at a few neighbouring frames of a capture; None when it can't be looked at in places
    (a video, a live source) or states no cameras. The capture's cursor stays where it is."""
    if not isinstance(capture, ListedCapture) or not capture.info.has_cameras:
        return None
    frames = list(_some_frames(capture))
    stated = _STATED.get(capture.info.format, _C2W_CV)
    return judge_readings(frames, stated, capture.info.source)


def judge_readings(
    groups: Sequence[Sequence[Frame]], stated: str, source: str
) -> ConventionCheck | None:
    """The check itself. groups: neighbouring frames each, with cameras as the reader took them from
    matrices that it holds to be `stated`, one of READINGS. None when nothing tells."""
    by_depth = [row for group in groups for pair in combinations(group, 2)
                if _tells(row := _by_depth(*pair, stated))]  # fmt: skip
    if len(by_depth) >= _LEAST_PAIRS:
        return _verdict(by_depth, "depth", stated, source)
    try:
        matcher = FeatureMatcher("finding out conventions")
    except EnvironmentUnfit:
        return None
    by_lines = []
    for group in groups:
        seen = [(frame, matcher.find(frame.image)) for frame in group]
        rows = (_by_lines(matcher, *pair, stated) for pair in combinations(seen, 2))
        by_lines += [row for row in rows if _tells(row)]
    if len(by_lines) >= _LEAST_PAIRS:
        return _verdict(by_lines, "matched features", stated, source)
    return None


def _verdict(
    rows: Sequence[dict[str, float]], evidence: str, stated: str, source: str
) -> ConventionCheck:
    scores = {name: float(np.mean([row[name] for row in rows])) for name in READINGS}
    checked = ConventionCheck(len(rows), evidence, scores)
    if scores[stated] >= _REFUTED:
        return checked
    others = [name for name, score in scores.items() if score >= _EXPLAINED]
    if len(others) != 1:
        return checked
    return replace(
        checked,
        warning=f"the camera poses of {source}, read as {stated}, explain {scores[stated]:.0%} of "
        f"the {evidence} of neighbouring frames; read as {others[0]} they would explain "
        f"{scores[others[0]]:.0%}, so convert them if that is what they are",
    )


def _tells(row: dict[str, float]) -> bool:
    return max(row.values(), default=0.0) >= _EVIDENCE


def _some_frames(capture: ListedCapture) -> Iterable[list[Frame]]:
    last = max(len(capture) - 3, 0)
    for first in np.unique(np.linspace(0, last, _PLACES).round().astype(int)):
        group = []
        for index in range(first, min(first + 3, len(capture))):
            try:
                frame = capture[int(index)]
            except DataError:
                continue
            if frame.camera is not None:
                size = min(_SHORT_SIDE, *frame.image.shape[:2])
                group.append(fit_frame(frame, size, square=False, multiple_of=1))
        yield group


def _motions(a: Frame, b: Frame, stated: str) -> dict[str, np.ndarray]:
    """From a's axes to b's, by each reading of the matrices that the reader took as `stated`."""
    assert a.camera is not None
    assert b.camera is not None
    # every reading is its own way back, but for the one whose two steps change places
    back: Reading = READINGS[stated]
    if stated == "world-to-camera with OpenGL axes":
        back = lambda matrix: invert_rigid(opencv_from_opengl(matrix))  # noqa: E731
    raw_a, raw_b = back(a.camera.c2w_cv), back(b.camera.c2w_cv)
    return {name: invert_rigid(read(raw_b)) @ read(raw_a) for name, read in READINGS.items()}


def _says_something(motions: dict[str, np.ndarray]) -> bool:
    return rotation_angle(next(iter(motions.values()))[:3, :3]) > _LEAST_TURN


def _by_depth(a: Frame, b: Frame, stated: str) -> dict[str, float]:
    if a.image.shape != b.image.shape or not known_depth(a).any() or not known_depth(b).any():
        return {}
    motions = _motions(a, b, stated)
    if not _says_something(motions):
        return {}
    found = {name: agreement(a, b, motion) for name, motion in motions.items()}
    # little overlap between neighbours refutes a reading as much as depths that differ
    return {name: told.score * min(1.0, told.overlap / 0.3) for name, told in found.items()}


def _by_lines(
    matcher: FeatureMatcher, a: tuple[Frame, Features], b: tuple[Frame, Features], stated: str
) -> dict[str, float]:
    (frame_a, features_a), (frame_b, features_b) = a, b
    assert frame_a.camera is not None
    assert frame_b.camera is not None
    motions = _motions(frame_a, frame_b, stated)
    if not _says_something(motions):
        return {}
    pairs = matcher.match(features_a, features_b)
    if len(pairs) < _LEAST_MATCHES:
        return {}
    rays_a = _rays(frame_a.camera, features_a.points[pairs[:, 0]])
    rays_b = _rays(frame_b.camera, features_b.points[pairs[:, 1]])
    tolerance = _PIXELS / frame_b.camera.fx
    return {name: _explained(rays_a, rays_b, motion, tolerance) for name, motion in motions.items()}


def _rays(camera: Camera, points: np.ndarray) -> np.ndarray:
    return camera.moved(np.eye(4)).unproject(points, np.ones(len(points)))


def _explained(a: np.ndarray, b: np.ndarray, motion: np.ndarray, tolerance: float) -> float:
    """Share of matched rays [N, 3] that meet in front of both cameras: Sampson distance in the
    plane at z = 1 (Hartley and Zisserman, 11.4.3) and positive depths."""
    rotation, shift = motion[:3, :3], motion[:3, 3]
    x, y, z = shift / max(float(np.linalg.norm(shift)), 1e-12)
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    line_b, line_a = a @ essential.T, b @ essential
    off = (b * line_b).sum(1) ** 2
    squared = off / np.maximum((line_b[:, :2] ** 2).sum(1) + (line_a[:, :2] ** 2).sum(1), 1e-18)
    # depths: b * d_b = rotation a * d_a + shift, least squares in (d_a, d_b)
    turned = a @ rotation.T
    aa, bb, ab = (turned**2).sum(1), (b**2).sum(1), (turned * b).sum(1)
    at, bt = turned @ shift, b @ shift
    area = np.maximum(aa * bb - ab * ab, 1e-18)
    in_front = (ab * bt - bb * at > 0) & (aa * bt - ab * at > 0) & (area > 0)
    return float(((squared < tolerance**2) & in_front).mean())
