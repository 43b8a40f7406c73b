"""The plan that a stack executes: a schedule bound to the chunks of one call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from everview.models.context import Context
from everview.models.schedule import Operation, Schedule


@dataclass(frozen=True)
class Plan:
    """Operations over chunks of views.

    operations: what a schedule expands to. chunk_views: views in each chunk, in order. context:
    the ranks that hold other views of the same chunks. is_set: its views have no order, and no
    layer may see one.
    """

    operations: tuple[Operation, ...]
    chunk_views: tuple[int, ...]
    context: Context = Context()  # noqa: RUF009 (frozen)
    is_set: bool = False

    @staticmethod
    def of(schedule: Schedule, chunk_views: tuple[int, ...]) -> Plan:
        """The plan of `schedule` for chunks of these many views."""
        if any(views < 1 for views in chunk_views):
            raise ValueError(f"chunks of {chunk_views} views: each needs at least 1")
        if schedule.joins_chunks:  # one chunk in all but name, so one compiled graph for all
            chunk_views = (sum(chunk_views),)
        operations = schedule.operations(len(chunk_views))
        return Plan(operations, tuple(chunk_views), is_set=schedule.joins_chunks)

    @property
    def num_updates(self) -> int:
        """Commits that a layer makes under this plan."""
        return sum(operation.kind == "update" for operation in self.operations)

    @property
    def num_views(self) -> int:
        """Views that write."""
        return sum(self.chunk_views)

    def writes_only(self) -> Plan:
        """The same plan for a layer whose tokens nobody reads afterwards."""
        updates = tuple(op for op in self.operations if op.kind == "update")
        return replace(self, operations=updates)

    def span(self, chunks: tuple[int, ...]) -> slice:
        """The slice of the view axis that these consecutive chunks cover."""
        ends = (0, *accumulate(self.chunk_views))
        return slice(ends[chunks[0]], ends[chunks[-1] + 1])
