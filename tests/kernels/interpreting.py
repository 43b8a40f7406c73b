"""Running the checks of tests/kernels/interpreted with Triton's interpreter, in their own process:
TRITON_INTERPRET counts when triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKS = sorted((Path(__file__).parent / "interpreted").glob("check_*.py"))


def assert_it_passes(check: Path) -> None:
    """All tests of one file; what pytest printed is the failure's message."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # a worker's own settings aren't its children's
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
        "--color=no", str(check),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{check.name}\n{done.stdout}\n{done.stderr}"
