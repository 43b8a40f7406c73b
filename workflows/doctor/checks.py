"""The checks of `everview doctor`: each tries one thing and says what it found and what to do.

A finding is "ok", "absent" (something optional is missing; everything else works) or "unfit"
(nothing will work until it is mended: exit code 4).
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_GIB = 2**30
_MIN_DISK_GIB, _MIN_MEMORY_GIB = 1.0, 2.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Finding:
    """What one check found. advice: what to do about it, empty when ok."""

    name: str
    state: Literal["ok", "absent", "unfit"]
    detail: str
    advice: str = ""


def examine() -> list[Finding]:
    """Every check in order; a check that breaks is itself a finding, never a traceback."""
    findings = []
    for name, (check, needed) in CHECKS.items():
        try:
            findings.append(check())
        except Exception as error:  # a broken library can raise anything at import
            state: Literal["absent", "unfit"] = "unfit" if needed else "absent"
            said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            findings.append(Finding(name, state, said, "run `make setup`, then look again"))
    return findings


def check_code() -> Finding:
    from everview.pipeline.runs import code_identity

    code = code_identity()
    revision = (code["revision"] or "installed")[:12] + (" modified" if code["modified"] else "")
    return Finding("code", "ok", f"everview {code['version']}, {revision}, {code['path']}")


def check_python() -> Finding:
    detail = f"{platform.python_version()}, {sys.executable}"
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "ok", detail)
    return Finding("python", "unfit", detail, "use Python 3.11 or 3.12")


def check_torch() -> Finding:
    """Import it and multiply: a build that lacks this processor's instructions fails here."""
    import torch

    square = torch.eye(64) @ torch.ones(64, 64)
    detail = f"{torch.__version__}, {torch.get_num_threads()} threads"
    if not bool((square == 1).all()):
        return Finding("torch", "unfit", f"{detail}: wrong product", "reinstall it: `make setup`")
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if not (2, 11) <= (major, minor) < (2, 15):
        return Finding("torch", "absent", detail, "tested with 2.11 to 2.14")
    return Finding("torch", "ok", detail)


def check_device() -> Finding:
    import torch

    from everview.pipeline.runs import describe_device

    if not torch.cuda.is_available():
        name = describe_device("cpu")["name"]
        return Finding("device", "ok", f"cpu ({name}); no GPU found, everything runs, slower")
    torch.ones(8, device="cuda").sum().item()
    card = describe_device("cuda")
    return Finding("device", "ok", f"cuda ({card['name']}, {card['memory_gib']} GiB)")


def check_triton() -> Finding:
    from importlib.metadata import version

    import torch

    if not torch.cuda.is_available():
        return Finding("triton", "ok", f"{version('triton')}, unused without a GPU")
    return Finding("triton", "ok", version("triton"))


def check_video() -> Finding:
    """Encode and decode two H.264 frames in memory."""
    import av
    import numpy as np

    with io.BytesIO() as file:
        with av.open(file, "w", format="mp4") as out:
            stream = out.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for _ in range(2):
                picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")
                out.mux(stream.encode(picture))
            out.mux(stream.encode())
        file.seek(0)
        with av.open(file, "r", format="mp4") as back:
            count = sum(1 for _ in back.decode(video=0))
    detail = f"PyAV {av.__version__}, H.264 encoded and decoded"
    if count != 2:
        return Finding("video", "unfit", f"{detail}, {count} of 2 frames", "reinstall av")
    return Finding("video", "ok", detail)


def check_geometry() -> Finding:
    import open3d  # libusb-1.0-0 is what a slim image lacks

    return Finding("open3d", "ok", f"{open3d.__version__}: point clouds and meshes are fused")


def check_poses() -> Finding:
    from importlib.metadata import version

    import pycolmap  # noqa: F401

    return Finding("pycolmap", "ok", f"{version('pycolmap')}: COLMAP models are read")


def check_browser() -> Finding:
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found:
        return Finding("browser", "ok", found)
    return Finding("browser", "absent", "no Chromium; only tests of the report need it",
                   "apt-get install chromium")  # fmt: skip


def check_weights() -> Finding:
    """Load the default weights through their manifest, as every verb does."""
    from everview.models.weight_files import WeightsError, load_model
    from everview.models.weights import DEFAULT_WEIGHTS

    try:
        model = load_model(DEFAULT_WEIGHTS)
    except WeightsError as error:
        return Finding(
            "weights", "absent", str(error), "give --weights to the verbs, or train some"
        )
    count = sum(parameter.numel() for parameter in model.parameters())
    return Finding("weights", "ok", f"{DEFAULT_WEIGHTS}: {count / 1e6:.1f} M parameters, verified")


def check_lpips() -> Finding:
    from everview.pipeline.evaluation.lpips_alex import BackboneMissingError, find_backbone

    try:
        return Finding(
            "lpips", "ok", f"AlexNet features from {find_backbone(download=False).source}"
        )
    except BackboneMissingError:
        return Finding("lpips", "absent", "no AlexNet features here: LPIPS is downloaded "
                       "at the first evaluation, or left out", "set EVERVIEW_LPIPS")  # fmt: skip


def check_disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    detail = f"{free:.1f} GiB free in {Path.cwd()}"
    if free < _MIN_DISK_GIB:
        return Finding("disk", "unfit", detail, f"free at least {_MIN_DISK_GIB:.0f} GiB")
    return Finding("disk", "ok", detail)


def check_memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB
    detail = f"{total:.1f} GiB"
    if total < _MIN_MEMORY_GIB:
        return Finding("memory", "unfit", detail, f"at least {_MIN_MEMORY_GIB:.0f} GiB are needed")
    return Finding("memory", "ok", detail)


def check_data() -> Finding:
    place = os.environ.get("EVERVIEW_DATA", "../shared/data")
    if Path(place).is_dir():
        names = sorted(entry.name for entry in Path(place).iterdir() if entry.is_dir())
        return Finding("data", "ok", f"{place}: {', '.join(names) or 'empty'}")
    return Finding("data", "absent", f"EVERVIEW_DATA: no folder {place}",
                   "only needed for the example captures; set EVERVIEW_DATA")  # fmt: skip


# name -> (check, whether everything depends on it)
CHECKS: dict[str, tuple[Callable[[], Finding], bool]] = {
    "code": (check_code, True),
    "python": (check_python, True),
    "torch": (check_torch, True),
    "device": (check_device, True),
    "triton": (check_triton, False),
    "video": (check_video, True),
    "open3d": (check_geometry, False),
    "pycolmap": (check_poses, False),
    "browser": (check_browser, False),
    "weights": (check_weights, False),
    "lpips": (check_lpips, False),
    "disk": (check_disk, True),
    "memory": (check_memory, True),
    "data": (check_data, False),
}
