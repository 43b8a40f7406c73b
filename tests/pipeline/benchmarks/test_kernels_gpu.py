"""The GPU benchmark of update and read: here small, on a CPU and without compilation."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
import torch

from everview.pipeline.benchmarks import kernels_gpu
from everview.pipeline.benchmarks.kernels_gpu import COLUMNS, KernelRow, bench_kernels_gpu
from everview.pipeline.benchmarks.results import WrongResult
from everview.pipeline.benchmarks.roofline import FORMULATIONS, intensity, points, roofline
from everview.pipeline.benchmarks.whole_rows import GpuReport
from everview.workflows.cli import bench

CPU, SHAPE = torch.device("cpu"), (2, 32, 64, 128)
Report = GpuReport[KernelRow]


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **_: run)


@pytest.fixture(scope="module")
def report() -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda run, **_: run)
        return bench_kernels_gpu(CPU, 1, shapes=(SHAPE,))


def test_every_pass_is_checked_and_measured_in_every_formulation(
    report: Report,
) -> None:
    both = ["ours", "ours, launched", "published, compiled", "published, compiled, as a graph"]
    forward = [*both, "ours, elastic", "plain, eager"]
    assert [row.op for row in report.rows] == [
        f"{op}: {name}"
        for op, names in (
            ("forward", forward), ("forward, SGD", both), ("forward + backward", both)
        )
        for name in names
    ]  # fmt: skip
    assert all(row.ms > 0 and row.tflops > 0 for row in report.rows)
    assert all(len(row.cells()) == len(COLUMNS) for row in report.rows)
    errors = [row.error_ratio for row in report.rows if row.op.endswith(": ours")]
    assert all(0 < error <= 1.2 for error in errors)
    assert "matmul ceiling" in report.circumstances()


def test_rows_are_chosen_by_what_name_and_shape_hold() -> None:
    found = bench_kernels_gpu(CPU, 1, "SGD 2 x 32", (SHAPE,))
    assert {row.op.partition(":")[0] for row in found.rows} == {"forward, SGD"}
    assert bench_kernels_gpu(CPU, 1, "SGD 3 x 32", (SHAPE,)).rows == ()


def test_a_wrong_result_gets_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_gpu, "_ERROR_RATIO", 1e-3)
    with pytest.raises(WrongResult, match="no time is reported"):
        bench_kernels_gpu(CPU, 1, "SGD", (SHAPE,))


def test_intensity_counts_inputs_and_results_once() -> None:
    n, width, hidden, length = SHAPE
    tokens, weights = n * length, 3 * n * width * hidden
    read_and_written = 2 * 4 * tokens * width + 4 * 3 * tokens + 4 * 2 * weights
    assert intensity(*SHAPE) == 18 * tokens * width * hidden / read_and_written
    more = 2 * 4 * tokens * width + 4 * 3 * tokens + 4 * weights
    whole = 3 * 18 * tokens * width * hidden / (read_and_written + more)
    assert intensity(*SHAPE, backward=True) == whole


def test_the_picture_has_a_point_for_each_row_of_ours_and_of_the_published(
    report: Report,
) -> None:
    found = json.loads(json.dumps(report.as_json()))
    drawn = points(found["rows"])
    assert {(p.op, p.formulation) for p in drawn} == {
        (op, name) for op in ("forward", "forward, SGD", "forward + backward")
        for name in FORMULATIONS
    }  # fmt: skip
    picture = ElementTree.fromstring(roofline(found))
    titles = [node.text for node in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == len(drawn)
    assert any("forward: ours, 2 x 32 x 64, 128 tokens" in title for title in titles)
    texts = [node.text for node in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"forward", "forward, SGD", "forward + backward", "128"} <= set(texts)


def test_no_point_lies_outside_the_picture() -> None:
    shapes = [(1, 768, 1536, 4096), (4, 768, 1536, 65536), (12, 512, 512, 16384)]
    rows = [
        {"op": f"forward: {name}", "shape": "{} x {} x {}, {}".format(*shape), "tflops": tflops}
        for shape in shapes
        for name, tflops in zip(FORMULATIONS, (610.0, 53.0, 700.0), strict=True)
    ]
    text = roofline({"rows": rows, "card": "an H100 <80GB>", "ceiling_tflops": 798.0})
    _, _, width, height = map(float, ElementTree.fromstring(text).attrib["viewBox"].split())
    places = re.findall(r"translate\(([\d.-]+),([\d.-]+)\)\" fill", text)
    assert len(places) >= len(rows)
    assert all(0 < float(x) < width and 0 < float(y) < height for x, y in places)


def test_a_picture_of_nothing_is_a_picture() -> None:
    ElementTree.fromstring(roofline({"rows": [], "card": "none", "ceiling_tflops": 1.0}))


def test_the_command_leaves_the_picture_beside_the_numbers(
    report: Report, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_on_gpu", lambda arguments: True)
    monkeypatch.setattr(kernels_gpu, "bench_kernels_gpu", lambda *_: report)
    bench.run(bench.Arguments(what="kernels", out=tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "bench.json").read_text())["ceiling_tflops"] > 0
    ElementTree.parse(tmp_path / "run" / "roofline.svg")
