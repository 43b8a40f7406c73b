"""The run directory: what every verb leaves behind, enough to repeat it.

The same command again continues an unfinished run; `--fresh` starts over; a finished run is
refused without it. One process owns a directory at a time.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from everview.pipeline.errors import UsageError, exit_code_of
from everview.pipeline.runs import metrics as metrics_file
from everview.pipeline.runs.atomic import disk_errors, write_json
from everview.pipeline.runs.lock import LOCK_NAME, DirectoryLock
from everview.pipeline.runs.metrics import read_json_object
from everview.pipeline.runs.plain import as_plain, redact, redact_command
from everview.pipeline.runs.provenance import code_identity, describe_host, library_versions

FILE_NAME = "run.json"
SCHEMA = 1
# How a run is started and shown doesn't change what it computes.
_NOT_PART_OF_A_RUN = ("out", "fresh", "json", "debug", "quiet")


class RunDirectory:
    """An owned run directory. Use as a context manager: leaving it records how the run ended.

    path: the directory. resumed: whether an unfinished run is being continued.
    record: what `run.json` holds; change it through `note` and `timed`.
    """

    def __init__(self, path: Path, lock: DirectoryLock, record: dict[str, Any], resumed: bool):
        self.path = path
        self.record = record
        self.resumed = resumed
        self._lock = lock
        self._started = time.monotonic()

    @classmethod
    def open(
        cls,
        path: Path | str,
        verb: str,
        config: Any,
        command: list[str] | None = None,
        fresh: bool = False,
        may_change: Collection[str] = (),
    ) -> RunDirectory:
        """Create, continue or refuse.

        config: the resolved configuration (dataclass or mapping), which repeats the run.
        command: the words of the command line (default: sys.argv). fresh: remove the run there.
        may_change: keys of `config` whose values a continuing command may change.
        Raises UsageError when the directory holds something else, a finished run, or an
        unfinished one of another configuration; TryAgain when another process owns it.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise UsageError(f"--out {path} is a file; name a directory")
        plain = redact(_comparable(config))
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = DirectoryLock(path)
            lock.acquire()
        try:
            old = _claim(path, verb, plain, fresh, may_change)
            record = old or _new_record(verb, plain)
            record["config"] = plain
            record["command"] = redact_command(list(sys.argv if command is None else command))
            record["status"], record["exit_status"], record["error"] = "running", None, None
            record["attempts"].append(
                {"started": datetime.now(UTC).isoformat(timespec="seconds"), "duration_s": None,
                 "exit_status": None, "revision": code_identity()["revision"]}
            )  # fmt: skip
            run = cls(path, lock, record, resumed=old is not None)
            run._write()
        except BaseException:
            lock.release()
            raise
        return run

    def note(self, **facts: Any) -> None:
        """Add facts to `run.json`: device, backends, gauge, input, weights, ..."""
        self.record.update(redact(as_plain(facts)))
        self._write()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall-clock time of a block to `durations_s[stage]`."""
        begin = time.monotonic()
        try:
            yield
        finally:
            durations = self.record["durations_s"]
            durations[stage] = round(durations.get(stage, 0.0) + time.monotonic() - begin, 3)

    def write_metrics(
        self,
        values: Mapping[str, Any],
        missing: Mapping[str, str] | None = None,
        train: bool = False,
    ) -> dict[str, Any]:
        """Write `metrics.json` with every key of the contract; returns what was written."""
        return metrics_file.write_metrics(self.path, values, missing, train)

    def finish(self, exit_status: int = 0, error: str | None = None) -> None:
        """Record how the run ended and give the directory up; a second call does nothing."""
        if self.record["status"] != "running":
            return
        interrupted = exit_status in (130, 143)
        self.record["status"] = (
            "done" if exit_status == 0 else "interrupted" if interrupted else "failed"
        )
        self.record["exit_status"] = exit_status
        self.record["error"] = redact(error) if error else None
        attempt = self.record["attempts"][-1]
        attempt["duration_s"] = round(time.monotonic() - self._started, 3)
        attempt["exit_status"] = exit_status
        try:
            self._write()
        finally:
            self._lock.release()

    def _write(self) -> None:
        write_json(self.path / FILE_NAME, self.record)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, SystemExit):
            self.finish(error.code if isinstance(error.code, int) else int(bool(error.code)))
        else:
            self.finish(exit_code_of(error), f"{type(error).__name__}: {error}")


def read_run(path: Path | str) -> dict[str, Any] | None:
    """The `run.json` of a directory; None when it holds no run. InputRejected if damaged."""
    record = read_json_object(Path(path) / FILE_NAME)
    return record if record is not None and record.get("program") == "everview" else None


def default_run_path(
    verb: str,
    subject: str,
    config: Any,
    root: Path | str = "runs",
    may_change: Collection[str] = (),
) -> Path:
    """Where a run goes without --out: `runs/VERB-SUBJECT`, or the first `-2`, `-3`, ... that is
    free or holds an unfinished run of the same configuration (which is then continued), but for
    the keys that `may_change`."""
    words = "".join(c if c.isalnum() or c in "._" else "-" for c in subject).strip("-.") or "run"
    plain = redact(_comparable(config))
    number = 1
    while True:
        path = Path(root) / (f"{verb}-{words[:60]}" + (f"-{number}" if number > 1 else ""))
        if not path.exists():
            return path
        record = read_run(path)
        if (
            record
            and record["status"] != "done"
            and _without(record["config"], may_change) == _without(plain, may_change)
        ):
            return path
        number += 1


def _comparable(config: Any) -> dict[str, Any]:
    return _without(as_plain(config), _NOT_PART_OF_A_RUN)


def _without(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def _new_record(verb: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "program": "everview", "schema": SCHEMA, "verb": verb, "command": [], "config": config,
        "status": "running", "exit_status": None, "error": None,
        "code": code_identity(), "versions": library_versions(), "host": describe_host(),
        "device": None, "backends": None, "gauge": None, "input": None,
        "weights": None, "durations_s": {}, "attempts": [],
    }  # fmt: skip


def _claim(
    path: Path, verb: str, config: dict[str, Any], fresh: bool, may_change: Collection[str]
) -> dict[str, Any] | None:
    """The record to continue, or None for a new run; refuses what must not be overwritten."""
    # A run killed during its very first write leaves a temporary file and nothing else.
    others = [
        entry
        for entry in path.iterdir()
        if entry.name != LOCK_NAME and not entry.name.startswith(f".{FILE_NAME}.")
    ]
    if not others:
        return None
    record = read_run(path)
    if record is None:
        raise UsageError(f"{path} is not empty and holds no run; choose another --out")
    if fresh:
        for entry in others:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        return None
    if record["verb"] != verb:
        raise UsageError(
            f"{path} holds a run of `{record['verb']}`; choose another --out or start over "
            "with --fresh"
        )
    if record["status"] == "done":
        raise UsageError(f"{path} holds a finished run; choose another --out or start over "
                         "with --fresh")  # fmt: skip
    before, now = _without(record["config"], may_change), _without(config, may_change)
    if before != now:
        raise UsageError(
            f"{path} holds an unfinished run of another configuration "
            f"({_difference(before, now)}); repeat that command or start over "
            "with --fresh"
        )
    return record


def _difference(old: Any, new: Any, where: str = "") -> str:
    """The first place where two configurations differ, as `a.b: 1 before, 2 now`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{where}.{key}" if where else key)
    return f"{where}: {old!r} before, {new!r} now"
