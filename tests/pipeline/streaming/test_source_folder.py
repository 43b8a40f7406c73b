"""A folder that is filled while it is streamed: order, half-written files, ends, resuming."""

import json
import signal
import threading
import time
from dataclasses import replace

import pytest
from PIL import Image

from everview.datasets.errors import DataError
from everview.datasets.formats.growing_index import END_MARKER, LINES_NAME
from everview.datasets.writers.posed_image import PosedImage
from everview.datasets.writers.transforms_json import write_transforms_json
from everview.pipeline.streaming.completeness import shortcomings
from everview.pipeline.streaming.config import SourceOptions
from everview.pipeline.streaming.feeder import Feeder
from everview.pipeline.streaming.sources.folder import FolderSource
from everview.pipeline.streaming.stream import stream_capture
from tests.pipeline.streaming.test_stream import Signaller, last_state

pytestmark = pytest.mark.usefixtures("without_lpips")

QUICK = SourceOptions(watch=True, idle_s=20.0, patience_s=0.3)


@pytest.fixture
def fill(frames, tmp_path):
    """A folder, the whole index that belongs to it, and functions that write parts of it."""
    return Filling(frames(10), tmp_path / "growing")


class Filling:
    def __init__(self, walk, folder):
        folder.mkdir()
        self.walk, self.folder = walk, folder
        images = [PosedImage(frame.name, frame.camera, frame.time_s) for frame in walk]
        self.index_path = folder / "transforms.json"
        write_transforms_json(self.index_path, images, "up_to_scale")
        self.index = json.loads(self.index_path.read_text())
        self.index_path.unlink()

    def list(self, count):
        content = {**self.index, "frames": self.index["frames"][:count]}
        self.index_path.write_text(json.dumps(content))

    def picture(self, number):
        frame = self.walk[number]
        Image.fromarray(frame.image).save(self.folder / frame.name)

    def end(self):
        (self.folder / END_MARKER).touch()


class Watching:
    """A feeder's arrivals, taken in another thread as they come."""

    def __init__(self, folder, options=QUICK):
        self.source = FolderSource(folder, options)
        self.arrivals, self._changed = [], threading.Condition()
        self.error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self.source.begin(None, lambda line: None)
            with Feeder(self.source, lambda frame: frame) as feeder:
                for arrival in feeder.arrivals():
                    with self._changed:
                        self.arrivals.append(arrival)
                        self._changed.notify_all()
        except DataError as error:
            self.error = error

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.arrivals) >= count, 30)

    def to_the_end(self):
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.arrivals


def indices(arrivals):
    return [None if a.frame is None else a.frame.index for a in arrivals]


def test_frames_are_taken_as_they_come_in_the_order_of_the_index(fill):
    watching = Watching(fill.folder)
    for count in range(1, 5):
        fill.picture(count - 1)
        fill.list(count)
        watching.wait_for(count)
    fill.end()
    assert indices(watching.to_the_end()) == [0, 1, 2, 3]
    assert [a.sequence for a in watching.arrivals] == [0, 1, 2, 3]
    assert watching.arrivals[2].frame.time_s == pytest.approx(0.2)


def test_a_picture_that_comes_before_its_turn_waits_for_those_listed_before_it(fill):
    fill.list(3)
    fill.picture(0)
    watching = Watching(fill.folder, SourceOptions(watch=True, patience_s=30.0))
    fill.picture(2)
    watching.wait_for(1)
    fill.picture(1)
    watching.wait_for(3)
    fill.end()
    assert indices(watching.to_the_end()) == [0, 1, 2]


def test_half_a_picture_and_half_an_index_are_read_when_they_are_whole(fill):
    watching = Watching(fill.folder, SourceOptions(watch=True, patience_s=30.0))
    fill.list(2)
    whole_index = fill.index_path.read_text()
    fill.index_path.write_text(whole_index[: len(whole_index) // 2])
    fill.picture(0)
    fill.index_path.write_text(whole_index)
    watching.wait_for(1)
    fill.picture(1)
    path = fill.folder / fill.walk[1].name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for part in (0.6, 0.8, 1.0):
        path.write_bytes(whole[: int(part * len(whole))])
    watching.wait_for(2)
    fill.end()
    arrivals = watching.to_the_end()
    assert [a.problem for a in arrivals] == [None, None]
    assert (arrivals[1].frame.image == fill.walk[1].image).all()


def test_a_picture_that_never_comes_is_given_up_and_named_and_takes_no_index(fill):
    fill.list(4)
    for number in (0, 2, 3):
        fill.picture(number)
    watching = Watching(fill.folder)
    watching.wait_for(4)
    fill.end()
    arrivals = watching.to_the_end()
    assert indices(arrivals) == [0, None, 1, 2]
    assert "001.png" in arrivals[1].problem
    assert [skip.name for skip in watching.source.skipped] == ["001.png"]
    assert [frame.name for frame in watching.source.seen_again()] == [
        "000.png",
        "002.png",
        "003.png",
    ]


def test_a_picture_that_stays_broken_is_given_up_but_keeps_its_index(fill):
    fill.list(3)
    for number in range(3):
        fill.picture(number)
    (fill.folder / fill.walk[1].name).write_bytes(b"\x89PNG and nothing more")
    watching = Watching(fill.folder)
    watching.wait_for(3)
    fill.end()
    assert indices(watching.to_the_end()) == [0, None, 2]


def test_lines_are_read_as_they_are_appended(fill):
    lines = fill.folder / LINES_NAME
    head = {key: value for key, value in fill.index.items() if key != "frames"}
    watching = Watching(fill.folder)
    with lines.open("w") as file:
        print(json.dumps(head), file=file, flush=True)
        for number in range(3):
            fill.picture(number)
            line = json.dumps(fill.index["frames"][number])
            file.write(line[:20])
            file.flush()
            print(line[20:], file=file, flush=True)
            watching.wait_for(number + 1)
    fill.end()
    assert indices(watching.to_the_end()) == [0, 1, 2]
    assert watching.source.info.scale == "up_to_scale"


def test_silence_ends_the_stream(fill):
    fill.list(3)
    fill.picture(0)
    watching = Watching(fill.folder, SourceOptions(watch=True, idle_s=0.5, patience_s=0.2))
    arrivals = watching.to_the_end()
    assert indices(arrivals) == [0, None, None]
    empty = fill.folder / "empty"
    empty.mkdir()
    nothing = Watching(empty, SourceOptions(watch=True, idle_s=0.2))
    assert nothing.to_the_end() == []
    assert "came within 0.2 s" in str(nothing.error)


def test_going_on_after_any_arrival_takes_the_others_once(fill):
    fill.list(6)
    for number in (0, 1, 3, 4, 5):
        fill.picture(number)
    fill.end()
    whole = Watching(fill.folder).to_the_end()
    for stopped in whole:
        again = FolderSource(fill.folder, QUICK)
        again.begin(None, lambda line: None)
        again.resume(json.loads(json.dumps(stopped.cursor)))
        with Feeder(again, lambda frame: frame) as feeder:
            rest = list(feeder.arrivals())
        assert [a.sequence for a in rest] == list(range(stopped.sequence + 1, 6))
        assert indices(rest) == indices(whole)[stopped.sequence + 1 :]
        assert len(list(again.seen_again())) == 5
    fill.index["frames"].reverse()
    fill.list(10)
    changed = FolderSource(fill.folder, QUICK)
    changed.begin(None, lambda line: None)
    with pytest.raises(DataError, match="other frames"):
        changed.resume(whole[2].cursor)


def test_a_folder_streamed_while_it_is_filled_and_stopped_leaves_the_run_of_the_finished_one(
    config, capture_folder, tmp_path
):
    plain = stream_capture(config, tmp_path / "plain")
    folder = tmp_path / "growing"
    folder.mkdir()
    (folder / "transforms.json").write_bytes((capture_folder / "transforms.json").read_bytes())

    def fill_slowly():
        for path in sorted(capture_folder.glob("*.png")):
            (folder / path.name).write_bytes(path.read_bytes())
            time.sleep(0.01)
        (folder / END_MARKER).touch()

    filling = threading.Thread(target=fill_slowly)
    filling.start()
    watching = replace(config, capture=str(folder), watch=True, idle_s=60.0)
    with pytest.raises(SystemExit):
        stream_capture(watching, tmp_path / "watched", progress=Signaller(signal.SIGTERM, 12))
    watched = stream_capture(watching, tmp_path / "watched")
    filling.join()
    assert last_state(watched.run) == last_state(plain.run)
    assert watched.metrics["psnr"] == plain.metrics["psnr"]
    assert watched.metrics["details"]["queue"]["dropped"] == 0
    names = {path.name for path in plain.run.iterdir()}
    assert {path.name for path in watched.run.iterdir()} == names
    assert shortcomings(watched.run) == []
