"""`everview inspect`: what it says of captures whose content is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from everview.datasets.cameras import Camera
from everview.datasets.captures import Capture, CaptureInfo, Frame, Skip
from everview.datasets.errors import DataError
from everview.workflows.cli.main import main
from everview.workflows.inspection import contact_sheet, frustum_plot, inspect_frames


class Listed(Capture):
    """A capture of frames in memory: the smallest thing that keeps the contract."""

    def __init__(self, frames: list[Frame], skipped: list[Skip] | None = None) -> None:
        self.info = CaptureInfo("memory", "a list", "metric", len(frames), has_cameras=True)
        self.skipped = skipped or []
        self._frames = frames

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...

    def rewind(self) -> None: ...

    def identity(self) -> str:
        return "none"


def walk(count: int, depth: float | None = None, size: int = 32) -> list[Frame]:
    """Cameras one unit apart along x, all looking along z, one frame a second."""
    frames = []
    for index in range(count):
        pose = np.eye(4)
        pose[0, 3] = index
        camera = Camera(size, size, size / 2, size / 2, size / 2, size / 2, pose)
        image = np.full((size, size, 3), index % 256, np.uint8)
        known = None if depth is None else np.full((size, size), depth, np.float32)
        if known is not None:
            known[: size // 2] = 0
        frames.append(Frame(index, f"{index}.png", image, camera, float(index), known))
    return frames


def test_the_facts_of_a_known_walk() -> None:
    facts = inspect_frames(Listed(walk(5, depth=4.0))).facts
    assert facts["frames"] == 5
    assert facts["sizes"] == {"32x32": 5}
    assert facts["cameras"]["fov_x_deg"]["median"] == pytest.approx(90)
    assert facts["cameras"]["path_length"] == pytest.approx(4)
    assert facts["cameras"]["extent"] == [4, 0, 0]
    assert facts["time"]["span_s"] == 4
    assert facts["depth"]["coverage"] == pytest.approx(0.5)
    assert facts["depth"]["median"] == pytest.approx(4)
    assert facts["gauge"] == {"rule": "median depth", "unit": 4.0, "reason": None}


def test_frames_without_a_clock_or_depth_are_said_to_have_none() -> None:
    frames = [Frame(0, "a", np.zeros((8, 8, 3), np.uint8))]
    facts = inspect_frames(Listed(frames)).facts
    assert facts["time"] is facts["depth"] is facts["cameras"] is None
    assert facts["gauge"]["rule"] is None
    assert "camera" in facts["gauge"]["reason"]


def test_a_capture_of_which_no_frame_decodes_is_refused_with_the_first_reason() -> None:
    with pytest.raises(DataError, match=r"no frame that can be read; a\.png: truncated"):
        inspect_frames(Listed([], [Skip("a.png", "truncated")]))


def test_thumbnails_stay_few_and_evenly_spaced_however_long_the_capture() -> None:
    found = inspect_frames(Listed(walk(1000, size=8)))
    assert 32 <= len(found.thumbnails) <= 64
    places = [int(name.removesuffix(".png")) for name, _ in found.thumbnails]
    assert set(np.diff(places)) == {16}


@pytest.mark.parametrize("count", [1, 2, 30])
def test_pictures_are_drawn_for_any_number_of_cameras(count: int) -> None:
    found = inspect_frames(Listed(walk(count)))
    drawn = ElementTree.fromstring(frustum_plot(found.cameras, "m"))
    assert len(drawn.findall(".//{*}g")) == 2
    assert len([p for p in drawn.findall(".//{*}path") if p.get("stroke") == "#2463eb"]) >= 2
    assert contact_sheet(found.thumbnails).width > 32


def write_capture(folder: Path, broken: bool) -> None:
    """A transforms.json of three frames, the last of which is cut short on request."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        file = folder / "images" / f"{index}.png"
        Image.fromarray(noise).save(file)
        pose = np.eye(4)
        pose[0, 3] = index * 0.1
        frames.append({"file_path": f"images/{index}.png", "transform_matrix": pose.tolist()})
    if broken:
        file.write_bytes(file.read_bytes()[:500])
    whole = {"fl_x": 60.0, "fl_y": 60.0, "cx": 32.0, "cy": 24.0, "w": 64, "h": 48, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(whole))


def test_a_bad_frame_is_named_and_counted_and_the_exit_code_is_0(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_capture(tmp_path / "capture", broken=True)
    with pytest.raises(SystemExit) as leaving:
        main(["inspect", str(tmp_path / "capture"), "--out", str(tmp_path / "run"), "--json"])
    assert leaving.value.code == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["frames"] == 2
    assert [skip["name"] for skip in facts["skipped"]] == ["images/2.png"]
    assert facts["run"] == str(tmp_path / "run")
    for name in ("run.json", "inspection.json", "contact_sheet.png", "cameras.svg"):
        assert (tmp_path / "run" / name).stat().st_size > 0


def test_the_run_directory_is_the_last_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_capture(tmp_path / "capture", broken=False)
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "capture"), "--out", str(tmp_path / "run")])
    assert capfd.readouterr().out.splitlines()[-1] == str(tmp_path / "run")
