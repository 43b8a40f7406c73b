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


class Strike:
    """From now on, SIGKILL at the `fatal`-th time this process touches a file below `folder`.

    touched: how often it has, so far.
    """

    def __init__(self, fatal: int, folder: str | os.PathLike[str]) -> None:
        self.fatal, self.folder, self.touched = fatal, os.path.abspath(folder), 0
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not arguments or not isinstance(arguments[0], str | os.PathLike):
            return
        if not os.path.abspath(os.fspath(arguments[0])).startswith(self.folder):
            return
        self.touched += 1
        if self.touched == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """See above."""
    strike, words = Strike(int(sys.argv[1]), sys.argv[2]), sys.argv[3:]
    from everview.workflows.cli.main import main as everview

    try:
        everview(words)
    finally:
        print(f"touched {strike.touched}", flush=True)


if __name__ == "__main__":
    main()
