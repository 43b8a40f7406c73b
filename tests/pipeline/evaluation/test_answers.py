"""What comes back from a worker is kept only if it is of the scene it was asked for."""

from __future__ import annotations

import base64
import json

import pytest

from everview.pipeline.evaluation.answers import pack, unpack
from everview.pipeline.evaluation.judging import Failure, Job, Judged

JOB = Job("procedural://room?seed=1", "room-1", "room-1")


def test_files_and_failures_come_back_as_they_left():
    files = {"views/room-1-00000_truth.png": b"\x89PNG\0", "scenes/room-1.json": b"{}"}
    judged = unpack(JOB, pack(Judged(files, 12.5)))
    assert isinstance(judged, Judged)
    assert (dict(judged.files), judged.peak_rss_mib) == (files, 12.5)
    failure = Failure("room-1: no light", 3, "Traceback")
    assert unpack(JOB, pack(failure)) == failure


@pytest.mark.parametrize(
    "name",
    ["../run.json", "run.json", "/tmp/x.png", "views/../../x.png", "views/room-2-0_truth.png",
     "scenes/room-2.json", "views/room-1-0/x.png"],
)  # fmt: skip
def test_a_file_elsewhere_in_the_run_directory_is_refused(name):
    content = {"files": {name: "", JOB.record: ""}, "peak_rss_mib": 1.0}
    with pytest.raises(ValueError, match="is no file of the scene room-1"):
        unpack(JOB, json.dumps(content).encode())


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{}", b'{"files": [], "peak_rss_mib": 1}', b"\xff\xfe",
     b'{"files": {}, "peak_rss_mib": 1}', b'{"failure": {}}', b'{"failure": 1}',
     json.dumps({"files": {JOB.record: "???"}, "peak_rss_mib": 1}).encode(),
     json.dumps({"files": {JOB.record: 1}, "peak_rss_mib": 1}).encode()],
)  # fmt: skip
def test_anything_else_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"\w"):
        unpack(JOB, content)


def test_a_scene_counts_as_judged_only_after_its_other_files(tmp_path):
    picture = "views/room-1-00000_truth.png"
    early = {JOB.record: base64.b64encode(b"{}").decode(), picture: ""}
    with pytest.raises(ValueError, match="lacks"):
        unpack(JOB, json.dumps({"files": early, "peak_rss_mib": 1}).encode())
    (tmp_path / "views").write_bytes(b"in the way")
    with pytest.raises(OSError, match="views"):
        Judged({picture: b"", JOB.record: b"{}"}, 1.0).keep(tmp_path)
    assert not JOB.kept_in(tmp_path).exists()
