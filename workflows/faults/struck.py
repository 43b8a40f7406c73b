"""`everview`, killed by itself at the n-th time it touches a file below a folder.

    python -m everview.workflows.faults.struck N FOLDER train tiny ...

Python reports every opening, renaming and removing to its audit hooks before it is done: a hook
counts those below FOLDER and answers the n-th with SIGKILL. N = 0 only counts; the number is the
last line.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def main() -> None:
    """See above."""
    fatal, folder, words = int(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3:]
    touched = 0

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal touched
        if event not in _EVENTS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        if not os.path.abspath(os.fspath(arguments[0])).startswith(folder):
            return
        touched += 1
        if touched == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heard)
    from everview.workflows.cli.main import main as everview

    try:
        everview(words)
    finally:
        print(f"touched {touched}", flush=True)


if __name__ == "__main__":
    main()
