"""The Ray Data graph over batches: numbers of batches in, receipts out, shards written on the way.

Without Ray, or with one worker, the same batches are made one after the other in this process.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from everview.pipeline.errors import EnvironmentUnfit, EverviewError, TryAgain
from everview.pipeline.preparing.batches import Plan, Receipt, make_batch
from everview.pipeline.streaming.progress import Progress

log = logging.getLogger(__name__)

# Errors that stop every batch, by the name they have on the way from a worker.
_FATAL: dict[str, type[EverviewError]] = {
    kind.__name__: kind for kind in (EnvironmentUnfit, TryAgain, EverviewError)
}
# receipts are all that passes through it
_STORE_MIB = 200
_RETRIES = 2


def has_ray() -> bool:
    """Whether Ray is installed; it is not imported for that."""
    return importlib.util.find_spec("ray") is not None


def made_here(plan: Plan, numbers: Sequence[int], progress: Progress) -> Iterator[Receipt]:
    """Receipts of the batches, made one after the other in this process."""
    for number in numbers:
        yield make_batch(plan, number, progress)


def made_by_ray(plan: Plan, numbers: Sequence[int], workers: int) -> Iterator[Receipt]:
    """Receipts as batches end, of `workers` tasks at a time.

    A batch whose process dies is tried again, and at last given up: its items have then failed.
    Raises what `make_batch` raises.
    """
    import ray.data

    from everview.pipeline.cluster import ClusterConfig, cluster

    here = ClusterConfig(cpus=workers, object_store_mib=_STORE_MIB, worker_logs=True)
    with cluster(here):
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures are in the receipts
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # what a dead process takes with it is named below
        rows = ray.data.from_items(
            [{"number": number} for number in numbers], override_num_blocks=len(numbers)
        )
        made = rows.map(_Maker(plan), num_cpus=1, concurrency=workers, max_retries=_RETRIES)
        left = set(numbers)
        for row in made.iter_rows():
            if row["fatal"]:
                raise _FATAL[row["fatal"]](row["said"])
            receipt = Receipt.from_json(row["said"], "a worker's receipt")
            left.discard(receipt.number)
            yield receipt
    for number in sorted(left):
        yield _given_up(plan, number)


def _given_up(plan: Plan, number: int) -> Receipt:
    why = (
        f"the process that prepared it died {_RETRIES + 1} times, perhaps for want of memory; the "
        "same command tries again, with fewer --workers each has more"
    )
    items = plan.batches[number]
    return Receipt(number, "", (), {item.name: f"{item.name}: {why}" for item in items}, 0.0)


class _Maker:
    """A batch's number to its receipt, in a worker."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        try:
            receipt = make_batch(self._plan, int(row["number"]), _WorkerLines())
        except EverviewError as error:
            kind = type(error).__name__
            return {"fatal": kind if kind in _FATAL else "EverviewError", "said": str(error)}
        except Exception as error:  # Ray would only count it
            log.exception("batch %d failed", int(row["number"]))
            return {"fatal": "EverviewError", "said": f"{type(error).__name__}: {error}"}
        return {"fatal": "", "said": receipt.to_json()}


class _WorkerLines:
    """Progress of one item as lines that Ray brings to the driver."""

    def __init__(self) -> None:
        self._stage, self._said_at = "", 0.0

    def step(self, stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if stage != self._stage or now - self._said_at >= 10.0:
            self._stage, self._said_at = stage, now
            self.say(f"{stage}: {done}" + ("" if total is None else f" of {total}"))

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
