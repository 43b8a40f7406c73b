"""What a worker answers, as JSON for the driver: files of a judged scene, or a failure."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict

from everview.pipeline.evaluation.judging import Failure, Job, Judged


def pack(answer: Judged | Failure) -> bytes:
    """An answer as JSON; contents of files in base64."""
    if isinstance(answer, Failure):
        return json.dumps({"failure": asdict(answer)}).encode()
    files = {name: base64.b64encode(data).decode() for name, data in answer.files.items()}
    return json.dumps({"files": files, "peak_rss_mib": answer.peak_rss_mib}).encode()


def unpack(job: Job, content: bytes) -> Judged | Failure:
    """The answer to `job`. Raises ValueError for anything but JSON of `pack` whose files are of
    that job: no worker writes elsewhere in the run directory, and none outside it."""
    try:
        answer = json.loads(content)
        if "failure" in answer:
            said = answer["failure"]
            trace = said["trace"]
            return Failure(str(said["reason"]), int(said["exit_code"]), trace and str(trace))
        files = {
            name: base64.b64decode(data, validate=True) for name, data in answer["files"].items()
        }
        peak = float(answer["peak_rss_mib"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no answer to a scene: {error!r}") from None
    picture = re.compile(rf"(views|depth)/{re.escape(job.key)}-\w+\.png")
    for name in files:
        if name != job.record and not picture.fullmatch(name):
            raise ValueError(f"{name!r} is no file of the scene {job.name}")
    if not files or next(reversed(files)) != job.record:
        raise ValueError(f"it lacks {job.record}")
    return Judged(files, peak)
