"""One stream over a bad line, in a process of its own.

    python -m everview.workflows.faults.streamed '{"capture": ..., "out": ..., "seed": 3, ...}'

Keys: capture, out, count, seed, fault (of `bad_line.Fault`), ungated, fatal (as `struck`), every_s
(between snapshots), is_timed, size, reach (of `Segments`).
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from everview.workflows.faults.struck import Strike


def run(told: dict[str, Any]) -> None:
    """See above. Raises what `stream_source` raises."""
    import torch

    from everview.datasets.opening import open_capture
    from everview.pipeline.streaming.config import StreamConfig
    from everview.pipeline.streaming.gate.thresholds import GateThresholds
    from everview.pipeline.streaming.policies import StreamPolicies
    from everview.pipeline.streaming.segments.policy import Segments
    from everview.pipeline.streaming.stream import stream_source
    from everview.workflows.faults.bad_line import BadLine, Fault, Line

    # sums add up in another order with other threads, in this process or one of its own
    torch.set_num_threads(1)
    given: dict[str, Any] = told.get("fault", {})
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    fault = Fault(**values)
    gate = GateThresholds()
    if told.get("ungated"):
        gate = replace(gate, darkest=-1, flattest=-1, frozen=-1, sharpness=0, suspect_stops=99)
    segments = Segments(float(told["reach"])) if "reach" in told else Segments()
    config = StreamConfig(
        capture=told["capture"], size=int(told.get("size", 32)), hold_out=8, video_frames=1,
        review_views=1, measured_views=16, fusion_views=0, device="cpu",
        policies=StreamPolicies(
            snapshot_every_s=told.get("every_s", 1.0), gate=gate, segments=segments
        ),
    )  # fmt: skip
    line = Line.of(fault, int(told["count"]), int(told["seed"]))
    source = BadLine(open_capture(told["capture"]), line, bool(told.get("is_timed")))
    stream_source(source, config, Path(told["out"]))


def main() -> None:
    """See above; the last line is how often files were touched."""
    told: dict[str, Any] = json.loads(sys.argv[1])
    strike = Strike(int(told.get("fatal", 0)), told["out"])
    from everview.pipeline.errors import EverviewError

    try:
        run(told)
    except EverviewError as error:
        print(f"error: {error}", flush=True)
        sys.exit(error.exit_code)
    finally:
        print(f"touched {strike.touched}", flush=True)


if __name__ == "__main__":
    main()
