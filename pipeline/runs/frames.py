"""`frames.parquet`: one row per frame, written so that a killed run keeps the rows it had.

Parquet can't be appended to, so rows go to a line-per-row journal while the run lasts and become
one Parquet file when it ends. The journal is read back in pieces: memory doesn't grow with length.
Only the table needs pyarrow, so that a session runs where it isn't installed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everview.pipeline.errors import InputRejected
from everview.pipeline.runs.appended import AppendedFile, Mark
from everview.pipeline.runs.atomic import replacing
from everview.pipeline.runs.plain import as_plain

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "frames.parquet"
JOURNAL_NAME = "frames.jsonl"

# Column -> type; a column that a verb doesn't fill is null. `sequence`: the sender's number.
# `latency_ms`: from arrival to absorbed; `absorb_ms`: of the whole chunk's update. `residual`: PSNR
# predicted before the frame was learned, `memory_residual`: of the memory alone. `gate`: the write
# gate's verdict (accepted, rectified, rejected), with its reason and the number that decided.
# `surprise` in dB, `step_factor`, frames `replayed`: of the chunk's update (streaming/learning.py).
COLUMNS: dict[str, str] = {
    "id": "int64",
    "name": "string",
    "scene": "string",
    "role": "string",
    "chunk": "int64",
    "time_s": "double",
    "sequence": "int64",
    "latency_ms": "double",
    "absorb_ms": "double",
    "residual": "double",
    "memory_residual": "double",
    "gate": "string",
    "gate_reason": "string",
    "gate_measured": "double",
    "surprise": "double",
    "step_factor": "double",
    "replayed": "int64",
    "state_mib": "double",
    "rss_mib": "double",
    "psnr": "double",
    "ssim": "double",
    "lpips_alex": "double",
    "laplacian_ratio": "double",
    "depth_abs_rel": "double",
}
_ROWS_AT_A_TIME = 4096


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])


def write_frames(folder: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows (keys of COLUMNS, others ignored) as `frames.parquet`, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    with replacing(Path(folder) / FILE_NAME) as temporary:
        remaining = iter(rows)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while piece := [dict(row) for row in itertools.islice(remaining, _ROWS_AT_A_TIME)]:
                writer.write_table(pa.Table.from_pylist(piece, schema=schema))


def read_frames(folder: Path | str, limit_rows: int = 1_000_000) -> list[dict[str, Any]]:
    """Rows of a run, from the Parquet file or, if it still runs, from the journal; [] if none."""
    folder = Path(folder)
    path = folder / FILE_NAME
    if not path.exists():
        return list(itertools.islice(_journal_rows(folder / JOURNAL_NAME), limit_rows))
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as stored:
            if stored.metadata.num_rows > limit_rows:
                raise InputRejected(f"{path} says it has {stored.metadata.num_rows} rows")
            return stored.read().to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputRejected(f"{path} can't be read ({error}); is it damaged?") from None


def frame_rows(folder: Path | str) -> Iterator[dict[str, Any]]:
    """Rows of a run one by one, as `read_frames` finds them, however many there are."""
    path = Path(folder) / FILE_NAME
    if not path.exists():
        yield from _journal_rows(Path(folder) / JOURNAL_NAME)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as stored:
        for piece in stored.iter_batches(_ROWS_AT_A_TIME):
            yield from piece.to_pylist()


class FrameLog(AppendedFile):
    """The rows of a run in progress: `add` each, `finish` once. One that doesn't go on after a mark
    starts the journal anew."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        super().__init__(self.folder / JOURNAL_NAME)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one row (keys of COLUMNS); it survives the end of the process."""
        unknown = set(row) - set(COLUMNS)
        if unknown:
            raise ValueError(f"not columns of frames.parquet: {sorted(unknown)}")
        self.append((json.dumps(as_plain(dict(row)), allow_nan=False) + "\n").encode())

    def go_on_after(self, mark: Mark) -> None:
        """Drop all rows after the mark; nothing where the table was already written."""
        if not self.path.exists() and (self.folder / FILE_NAME).exists():
            return
        super().go_on_after(mark)

    def finish(self) -> None:
        """Write `frames.parquet` and remove the journal."""
        self.close()
        write_frames(self.folder, _journal_rows(self.path))
        self.path.unlink(missing_ok=True)


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
