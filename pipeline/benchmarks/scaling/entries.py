"""The benchmarks of scaling by name."""

from __future__ import annotations

from everview.pipeline.benchmarks.scaling import (
    context_parallel,
    data_parallel,
    equality,
    feed,
    overhead,
    stall,
)
from everview.pipeline.benchmarks.scaling.rows import Entry
from everview.pipeline.errors import UsageError

ENTRIES = (
    Entry(equality.NAME, equality.equal_results, 0.06),
    Entry(data_parallel.NAME, data_parallel.data_parallel, 0.16),
    Entry(context_parallel.NAME, context_parallel.context_parallel, 0.25),
    Entry(overhead.NAME, overhead.overhead, 0.33),
    Entry(stall.NAME, stall.checkpoint_stall, 0.1),
    Entry(feed.NAME, feed.feed, 0.1),
)


def chosen(rows: str) -> tuple[Entry, ...]:
    """Those whose name begins with one of `rows`, separated by commas; all if empty.

    Raises UsageError where a word begins none.
    """
    words = [word.strip() for word in rows.split(",") if word.strip()]
    for word in words:
        if not any(entry.name.startswith(word) for entry in ENTRIES):
            names = ", ".join(entry.name for entry in ENTRIES)
            raise UsageError(f"no row of scaling begins with {word!r}; there are: {names}")
    return tuple(
        entry for entry in ENTRIES
        if not words or any(entry.name.startswith(word) for word in words)
    )  # fmt: skip
