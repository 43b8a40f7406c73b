"""The write gate: what it keeps out, mends and lets pass, with the numbers that decided."""

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from everview.datasets.errors import DataError
from everview.pipeline.errors import UsageError
from everview.pipeline.streaming.gate import measures
from everview.pipeline.streaming.gate.exposure import rectifying_fit
from everview.pipeline.streaming.gate.measures import Look
from everview.pipeline.streaming.gate.thresholds import GateThresholds
from everview.pipeline.streaming.gate.write_gate import WriteGate
from everview.pipeline.streaming.preparing import prepared

LIMITS = GateThresholds(patience=5)


def nothing_yet(frame):
    return None


@pytest.fixture
def scene(frames):
    """Twelve frames of one textured picture that is panned over, with a camera's noise."""
    random = np.random.default_rng(5)
    coarse = random.integers(40, 160, (20, 30, 3), np.uint8)
    wall = np.asarray(Image.fromarray(coarse).resize((180, 120), Image.Resampling.BICUBIC))
    grain = random.integers(-12, 13, wall.shape)
    wall = (wall + grain).clip(0, 255)

    def at(place):
        cut = wall[20:84, 4 * place : 4 * place + 64]
        return (cut + random.normal(0, 2, cut.shape)).clip(0, 255).astype(np.uint8)

    return [replace(frame, image=at(frame.index)) for frame in frames_of_64(frames)]


def frames_of_64(frames):
    return frames(12, 64)


@pytest.fixture
def gate(scene):
    """One that has let ten frames pass."""
    gate = WriteGate(LIMITS)
    for frame in scene[:10]:
        assert gate.judge(frame, nothing_yet).verdict.kind == "accepted"
    return gate


def facts_of(gate):
    return gate.to_facts(), gate.previous.image.tobytes(), gate.written.image.tobytes()


def blurred(image, radius):
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


@pytest.mark.parametrize(
    ("reason", "spoil", "measured"),
    [
        ("black", lambda f: replace(f, image=f.image // 40), 3.0),
        ("blank", lambda f: replace(f, image=np.full_like(f.image, 128)), 0.0),
        ("blurred", lambda f: replace(f, image=blurred(f.image, 2.5)), 0.1),
        ("picture not finite", lambda f: replace(f, image=np.full((64, 64, 3), np.nan)), None),
        ("picture is float64", lambda f: replace(f, image=f.image / 255), None),
        ("picture is uint8 [64, 64]", lambda f: replace(f, image=f.image[..., 0]), None),
        ("picture and camera differ in size", lambda f: replace(f, image=f.image[:32]), None),
        ("no camera", lambda f: replace(f, camera=None), None),
        ("time not finite", lambda f: replace(f, time_s=math.inf), None),
        ("time out of range", lambda f: replace(f, time_s=-1.7e308), None),
        ("exposure jump", lambda f: replace(f, image=(f.image * 0.3).astype(np.uint8)[::-1]), -1.5),
    ],
)
def test_what_would_spoil_the_memory_is_rejected_with_its_number(
    gate, scene, reason, spoil, measured
):
    judged = gate.judge(spoil(scene[10]), nothing_yet)
    assert judged.verdict.kind == "rejected"
    assert judged.verdict.reason.startswith(reason)
    if measured is not None:
        assert judged.verdict.measured == pytest.approx(measured, abs=0.6)
    assert gate.judge(scene[11], nothing_yet).verdict.kind == "accepted"


def test_a_repeated_picture_is_frozen_and_a_still_camera_is_not(gate, scene):
    last = scene[9]
    assert gate.judge(last, nothing_yet).verdict.reason == "frozen"
    moved = replace(last, camera=scene[10].camera)
    assert gate.judge(moved, nothing_yet).verdict.reason == "frozen while its camera moves"
    noise = np.random.default_rng(1).normal(0, 0.3, last.image.shape)  # 2 levels, averaged 8x8
    still = replace(last, image=(last.image + noise).round().clip(0, 255).astype(np.uint8))
    judged = gate.judge(still, nothing_yet)
    assert judged.verdict.kind == "accepted"


def test_a_picture_that_repeats_a_held_out_one_is_not_written_either(gate, scene):
    gate.pass_by(scene[10])
    repeated = replace(scene[11], image=scene[10].image)
    assert gate.judge(repeated, nothing_yet).verdict.reason == "frozen while its camera moves"


@pytest.mark.parametrize(
    ("gain", "offset"), [((0.45,) * 3, 0), ((1.9,) * 3, 0), ((0.4, 0.5, 0.6), 0), ((0.4,) * 3, 20)]
)
def test_an_exposure_jump_is_rectified_to_what_the_memory_expects(gate, scene, gain, offset):
    frame = scene[10]
    jumped = (frame.image * 0.75 * np.array(gain) + offset).clip(0, 255).astype(np.uint8)
    gate.brightnesses = [b + math.log2(0.75) for b in gate.brightnesses]
    truth = (frame.image * 0.75).astype(np.uint8)
    expected = blurred(truth, 1.5)  # predictions are soft
    judged = gate.judge(replace(frame, image=jumped), lambda _: expected)
    assert (judged.verdict.kind, judged.verdict.reason) == ("rectified", "exposure jump")
    assert abs(judged.verdict.measured) > LIMITS.suspect_stops
    assert measures.difference(judged.frame.image, truth) < 6
    assert measures.difference(jumped, truth) > 25


def test_a_scene_that_is_bright_where_the_memory_expects_it_is_left_alone(gate, scene):
    bright = (scene[10].image * 1.6).clip(0, 255).astype(np.uint8)
    judged = gate.judge(replace(scene[10], image=bright), lambda _: blurred(bright, 1.5))
    assert judged.verdict.kind == "accepted"
    assert judged.frame.image is bright


@pytest.mark.parametrize(
    ("reason", "other"),
    [
        ("blurred", lambda image: blurred(image, 2.5)),
        ("exposure jump", lambda image: (image * 0.4).astype(np.uint8)[::-1]),
    ],
)
def test_what_a_camera_turns_to_is_written_and_what_is_suddenly_there_is_not(
    gate, scene, reason, other
):
    """A plainer or darker wall comes in over eight frames; before that, in one."""
    sudden = replace(scene[10], image=other(scene[10].image))
    assert gate.judge(sudden, nothing_yet).verdict.reason == reason
    for step, frame in enumerate(scene[4:], 1):
        seen = frame.image.copy()
        seen[:, 64 - 8 * step :] = other(frame.image)[:, 64 - 8 * step :]
        judged = gate.judge(replace(frame, image=seen), nothing_yet)
        assert judged.verdict.kind == "accepted"
        assert judged.frame.image is seen


def test_another_scene_is_no_exposure_of_this_one(scene):
    other = scene[0].image[::-1, ::-1] // 2
    assert rectifying_fit(other, scene[0].image, LIMITS) is None


def test_the_memory_is_asked_only_in_doubt(gate, scene):
    def unasked(frame):
        raise AssertionError("drawn for nothing")

    assert gate.judge(scene[10], unasked).verdict.kind == "accepted"


def test_a_stream_that_turns_dark_starves_no_longer_than_the_gates_patience(gate, scene):
    """And after that the dark pictures are the stream."""
    random = np.random.default_rng(2)
    kinds, ways = [], []
    for count in range(12):
        dim = replace(scene[10], image=random.integers(0, 6, (64, 64, 3), np.uint8))
        judged = gate.judge(replace(dim, index=count), nothing_yet)
        kinds.append(judged.verdict.kind)
        ways.append(judged.gave_way)
        if judged.gave_way:
            assert judged.verdict.reason == "black, written after 5 rejections in a row"
    assert kinds == (["rejected"] * 5 + ["accepted"]) * 2
    assert ways == ([False] * 5 + [True]) * 2


def test_what_cannot_be_written_never_passes_however_patient(gate, scene):
    for place in range(20):
        moved = replace(scene[9], camera=scene[place % 8].camera)
        assert gate.judge(moved, nothing_yet).verdict.kind == "rejected"
        assert gate.judge(replace(moved, camera=None), nothing_yet).verdict.reason == "no camera"


def test_a_gate_that_was_put_away_judges_as_if_it_never_had_been(gate, scene):
    dim = replace(scene[10], image=scene[10].image // 40)
    for _ in range(3):
        gate.judge(dim, nothing_yet)
    again = WriteGate(LIMITS)
    again.restore(gate.to_facts(), gate.previous, gate.written)
    for frame in (dim, dim, dim, scene[10], scene[10], scene[11]):
        left, right = gate.judge(frame, nothing_yet), again.judge(frame, nothing_yet)
        assert left.verdict == right.verdict
    assert facts_of(gate) == facts_of(again)


def test_the_running_medians_forget(gate, scene):
    for count in range(40):
        gate.judge(scene[count % 12], nothing_yet)
    assert len(gate.blurs) == len(gate.sharpnesses) == len(gate.brightnesses) == LIMITS.memory


def test_impossible_limits_are_refused():
    with pytest.raises(UsageError, match="memory >= warm_up"):
        GateThresholds(warm_up=20)
    with pytest.raises(UsageError, match="patience"):
        GateThresholds(patience=0)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((64, 64, 3), np.nan, np.float32), "not finite"),
        (np.zeros((64, 64, 3), np.float32), "float32"),
        (np.zeros((64, 64), np.uint8), r"uint8 \[64, 64\]"),
    ],
)
def test_a_picture_that_no_reader_makes_is_named_before_it_is_resized(scene, image, said):
    with pytest.raises(DataError, match=said):
        prepared(replace(scene[0], image=image), 32, 8)


def test_a_verdict_is_the_same_whoever_looked_at_the_picture(scene):
    ours, theirs = WriteGate(LIMITS), WriteGate(LIMITS)
    pictures = [frame.image for frame in scene]
    pictures[4], pictures[7] = blurred(pictures[4], 3), np.zeros_like(pictures[7])
    pictures[11] = (pictures[11] * 0.3).astype(np.uint8)
    for frame, picture in zip(scene, pictures, strict=True):
        came = replace(frame, image=picture)
        judged = ours.judge(came, nothing_yet)
        again = theirs.judge(came, nothing_yet, Look.whole(picture))
        assert judged.verdict == again.verdict
    assert ours.to_facts() == theirs.to_facts()


def test_only_pictures_are_looked_at(scene):
    image = scene[0].image
    assert Look.whole(image.astype(np.float32)) is None
    assert Look.whole(image[..., 0]) is None


def test_a_blurred_frame_is_written_where_the_camera_turned_away_and_changes_no_median(gate, scene):
    """Fast turns blur, and what they pass is seen by nothing else."""
    usual = list(gate.blurs), list(gate.sharpnesses)
    turned = replace(scene[10].camera, c2w_cv=scene[9].camera.c2w_cv @ turn_about_y(30))
    soft = replace(scene[10], image=blurred(scene[10].image, 2.5), camera=turned)
    verdict = gate.judge(soft, nothing_yet).verdict
    assert (verdict.kind, verdict.reason) == ("accepted", "blurred, but the camera turned")
    assert verdict.measured < LIMITS.sharpness
    assert (gate.blurs, gate.sharpnesses) == usual
    beside = replace(scene[11], image=blurred(scene[11].image, 2.5), camera=turned)
    assert gate.judge(beside, nothing_yet).verdict.reason == "blurred"


@pytest.mark.parametrize(("degrees", "share"), [(0, 1.0), (30, 0.5), (180, 0.0)])
def test_shared_directions_are_those_that_both_pictures_hold(scene, degrees, share):
    """Of a field of view of 60 degrees, a turn by 30 leaves the half that straight rays fill."""
    focal = 32 / math.tan(math.radians(30))
    camera = replace(scene[0].camera, fx=focal, fy=focal, cx=32.0, cy=32.0)
    other = replace(camera, c2w_cv=camera.c2w_cv @ turn_about_y(degrees))
    assert measures.shared_directions(camera, other) == pytest.approx(share, abs=0.13)


def turn_about_y(degrees):
    turn = np.eye(4)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn[:3, :3] = [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]
    return turn
