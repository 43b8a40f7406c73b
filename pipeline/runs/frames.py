"""`frames.parquet`: one row per frame, written so that a killed run keeps the rows it had.

Parquet can't be appended to, so rows go to a line-per-row journal while the run lasts and become
one Parquet file when it ends. The journal is read back in pieces: memory doesn't grow with length.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from everview.pipeline.errors import InputRejected
from everview.pipeline.runs.atomic import disk_errors, replacing
from everview.pipeline.runs.plain import as_plain

FILE_NAME = "frames.parquet"
JOURNAL_NAME = "frames.jsonl"

# Column -> type; a column that a verb doesn't fill is null. `sequence`: the sender's number.
# `latency_ms`: from arrival to absorbed; `absorb_ms`: of the whole chunk's update. `residual`: PSNR
# predicted before the frame was learned, `memory_residual`: of the memory alone. `gate`: the write
# gate's verdict (accepted, rectified, rejected), with its reason and the number that decided.
COLUMNS: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "name": pa.string(),
    "scene": pa.string(),
    "role": pa.string(),
    "chunk": pa.int64(),
    "time_s": pa.float64(),
    "sequence": pa.int64(),
    "latency_ms": pa.float64(),
    "absorb_ms": pa.float64(),
    "residual": pa.float64(),
    "memory_residual": pa.float64(),
    "gate": pa.string(),
    "gate_reason": pa.string(),
    "gate_measured": pa.float64(),
    "state_mib": pa.float64(),
    "rss_mib": pa.float64(),
    "psnr": pa.float64(),
    "ssim": pa.float64(),
    "lpips_alex": pa.float64(),
    "laplacian_ratio": pa.float64(),
    "depth_abs_rel": pa.float64(),
}
_ROWS_AT_A_TIME = 4096


def _table(rows: list[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(row) for row in rows], schema=pa.schema(list(COLUMNS.items()))
    )


def write_frames(folder: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows (keys of COLUMNS, others ignored) as `frames.parquet`, whole or not at all."""
    with replacing(Path(folder) / FILE_NAME) as temporary:
        writer = pq.ParquetWriter(temporary, pa.schema(list(COLUMNS.items())), compression="zstd")
        remaining = iter(rows)
        with writer:
            while piece := list(itertools.islice(remaining, _ROWS_AT_A_TIME)):
                writer.write_table(_table(piece))


def read_frames(folder: Path | str, limit_rows: int = 1_000_000) -> list[dict[str, Any]]:
    """Rows of a run, from the Parquet file or, if it still runs, from the journal; [] if none."""
    folder = Path(folder)
    path = folder / FILE_NAME
    if not path.exists():
        return list(itertools.islice(_journal_rows(folder / JOURNAL_NAME), limit_rows))
    try:
        with pq.ParquetFile(path) as stored:
            if stored.metadata.num_rows > limit_rows:
                raise InputRejected(f"{path} says it has {stored.metadata.num_rows} rows")
            return stored.read().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputRejected(f"{path} can't be read ({error}); is it damaged?") from None


class FrameLog:
    """The rows of a run in progress: `append` each, `finish` once.

    A log opened on an unfinished run continues it; `keep_first(count)` first drops the rows that
    the run will produce again, because its last snapshot is older than they are.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.journal = self.folder / JOURNAL_NAME
        self._handle: IO[str] | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row (keys of COLUMNS); it survives the end of the process."""
        unknown = set(row) - set(COLUMNS)
        if unknown:
            raise ValueError(f"not columns of frames.parquet: {sorted(unknown)}")
        with disk_errors(self.journal):
            if self._handle is None:
                self._handle = self.journal.open("a", encoding="utf-8")
            self._handle.write(json.dumps(as_plain(dict(row)), allow_nan=False) + "\n")
            self._handle.flush()

    def keep_first(self, count: int) -> None:
        """Drop all rows after the first `count`."""
        self.close()
        if not self.journal.exists():
            return
        with replacing(self.journal) as temporary, temporary.open("w", encoding="utf-8") as kept:
            for row in itertools.islice(_journal_rows(self.journal), count):
                kept.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Close the journal; `append` opens it again."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def finish(self) -> None:
        """Write `frames.parquet` and remove the journal."""
        self.close()
        write_frames(self.folder, _journal_rows(self.journal))
        self.journal.unlink(missing_ok=True)


def _journal_rows(path: Path) -> Iterable[dict[str, Any]]:
    """Complete rows of a journal; a last line cut off by a kill is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            try:
                row = json.loads(line)
            except ValueError:
                raise InputRejected(
                    f"{path} holds a line that is not JSON; is it damaged?"
                ) from None
            yield {key: row.get(key) for key in COLUMNS}
