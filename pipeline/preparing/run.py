"""`everview prepare`: sources into one verified shard set, batch by batch, into a run directory."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everview.datasets.errors import DataError
from everview.datasets.opening import open_capture
from everview.datasets.resampling import fitted_size
from everview.datasets.shards import Manifest, open_place, write_manifest
from everview.datasets.shards.manifest import MANIFEST_NAME
from everview.datasets.shards.places import Place
from everview.pipeline.errors import UsageError
from everview.pipeline.preparing.batches import Plan, Receipt, grouped
from everview.pipeline.preparing.config import PrepareConfig
from everview.pipeline.preparing.graph import has_ray, made_by_ray, made_here
from everview.pipeline.preparing.items import Found, Item, find_items
from everview.pipeline.runs import RunDirectory, default_run_path, disk_errors, peak_rss_mib
from everview.pipeline.streaming.interrupts import Interrupts
from everview.pipeline.streaming.progress import Progress, Silent

log = logging.getLogger(__name__)

_SHOWN = 8


@dataclass(frozen=True)
class Prepared:
    """run: the directory. place: of the shards. facts: for `run.json` and --json."""

    run: Path
    place: str
    manifest: Manifest
    failed: dict[str, str]
    facts: dict[str, Any]
    text: str

    @property
    def exit_code(self) -> int:
        """0 when every item was prepared, 1 otherwise."""
        return 1 if self.failed else 0


def prepare(
    config: PrepareConfig,
    out: Path | None = None,
    fresh: bool = False,
    command: list[str] | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Prepared:
    """Make shards of `config.sources`.

    out: run directory (default under runs/), and of the shards without `config.to`. workers:
    processes that make batches (default: usable cores); what they make doesn't depend on it.
    An item that fails is named and left out. Raises what `pipeline.errors` and DataError say, also
    when nothing could be prepared.
    """
    progress = progress or Silent()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = workers or cores or 1
    if workers < 1:
        raise UsageError(f"--workers {workers}: at least 1")
    # what can't be used is refused before anything is written
    found = find_items(config.sources, config.split)
    size = _picture_size(config, found.items)
    if config.to is not None:
        open_place(config.to)
    out = out or default_run_path("prepare", Path(config.sources[0]).name, config)
    with RunDirectory.open(out, "prepare", config, command, fresh) as run:
        place = open_place(config.to if config.to is not None else run.path)
        _clear_place(place, config, run, fresh)
        batches = grouped(found.items, config)
        at_once = min(workers, len(batches))
        plan = Plan(config, place.url, size, batches, max(1, (cores or 1) // at_once))
        run.note(
            input={"items": len(found.items), "batches": len(batches), "split": found.split,
                   "picture": list(size), "passed_over": list(found.passed_over)},
            workers=workers,
        )  # fmt: skip
        for name in found.passed_over[:_SHOWN]:
            log.warning("%s is neither a capture nor a mesh; it is passed over", name)
        begin = time.monotonic()
        with run.timed("prepare"):
            receipts = _make_all(plan, workers, place, progress)
        return _conclude(plan, run, place, found, receipts, time.monotonic() - begin)


def _picture_size(config: PrepareConfig, items: tuple[Item, ...]) -> tuple[int, int]:
    """(W, H) of the set: of the first capture that opens when its aspect is to be kept."""
    if config.full_aspect:
        for item in items:
            if item.kind != "capture":
                continue
            try:
                frame = next(iter(open_capture(item.source)))
            except (DataError, StopIteration):
                continue  # it will be named when it is prepared
            height, width = frame.image.shape[:2]
            return fitted_size(width, height, config.size)
    return config.size, config.size


def _clear_place(place: Place, config: PrepareConfig, run: RunDirectory, fresh: bool) -> None:
    """Refuse a place of somebody else's files; take away what --fresh says, and cut writes."""
    ours = [name for name in place.names() if _is_ours(name)]
    if config.to is not None and not run.resumed and place.names() and not fresh:
        raise UsageError(
            f"--to {place.url} is not empty; name a new place or start over with --fresh"
        )
    for name in ours:
        if fresh or name.startswith("."):
            place.remove(name)


def _is_ours(name: str) -> bool:
    return name.lstrip(".").startswith(("shard-", "batch-", MANIFEST_NAME))


def _make_all(plan: Plan, workers: int, place: Place, progress: Progress) -> list[Receipt]:
    """Every batch, in order of their numbers. Ctrl-C or SIGTERM once ends after the batch in hand
    and keeps what was made; raises KeyboardInterrupt or SystemExit then."""
    total = len(plan.batches)
    receipts: dict[int, Receipt] = {}
    items_done = 0
    progress.step("items", 0, sum(map(len, plan.batches)))

    def say_stopping() -> None:
        progress.say("stopping after the batch in hand; once more stops now")

    with Interrupts(say_stopping) as interrupts, disk_errors(Path(plan.place)):
        for receipt in _receipts(plan, workers, place, progress):
            receipts[receipt.number] = receipt
            items_done += len(plan.batches[receipt.number])
            for reason in receipt.failures.values():
                log.warning("%s", reason)
            progress.step("items", items_done, sum(map(len, plan.batches)))
            if interrupts.should_stop and len(receipts) < total:
                break
        if len(receipts) < total:
            progress.say(f"{len(receipts)} of {total} batches made; the same command goes on")
            if interrupts.is_terminated:
                raise SystemExit(143)
            raise KeyboardInterrupt
    return [receipts[number] for number in range(total)]


def _receipts(plan: Plan, workers: int, place: Place, progress: Progress) -> Iterator[Receipt]:
    numbers = range(len(plan.batches))
    workers = min(workers, len(numbers))
    if workers > 1 and place.is_shared:
        if has_ray():
            return made_by_ray(plan, numbers, workers)
        progress.say("ray is not installed: one process makes everything")
    return made_here(plan, numbers, progress)


def _conclude(
    plan: Plan,
    run: RunDirectory,
    place: Place,
    found: Found,
    receipts: list[Receipt],
    seconds: float,
) -> Prepared:
    """Write the manifest, remove what it doesn't name, and say what there is."""
    failed = {name: why for receipt in receipts for name, why in receipt.failures.items()}
    shards = [shard for receipt in receipts for shard in receipt.shards]
    if not shards:
        raise DataError("nothing could be prepared: " + "; ".join(failed.values()))
    with disk_errors(Path(plan.place)):
        manifest = write_manifest(place, plan.size, found.split, shards)
    named = {shard.file for shard in shards}
    for name in place.names():
        # receipts go when nothing is left to be tried again
        is_stray = name.startswith("shard-") and name not in named
        if is_stray or (name.startswith("batch-") and not failed):
            place.remove(name)
    facts = _facts(manifest, receipts, seconds)
    facts |= {"place": place.url, "failed": failed}
    run.note(prepared=facts)
    made_views = sum(s.views for r in receipts if not r.was_there for s in r.shards)
    run.write_metrics(
        {"frames_per_s": made_views / seconds if made_views else None,
         "peak_rss_mib": peak_rss_mib(with_children=True), "details": facts},
    )  # fmt: skip
    text = _as_text(manifest, place, facts, failed, found.split)
    exit_code = 1 if failed else 0
    run.finish(exit_code, "; ".join(failed.values()) or None)
    return Prepared(run.path, place.url, manifest, failed, facts, text)


def _facts(manifest: Manifest, receipts: list[Receipt], seconds: float) -> dict[str, Any]:
    made = [receipt for receipt in receipts if not receipt.was_there]
    rendered = sum(receipt.account.rendered_views for receipt in made)
    render_cpu_s = sum(receipt.account.render_cpu_s for receipt in made)
    return {
        "scenes": len(manifest.scenes),
        "views": manifest.views,
        "shards": len(manifest.shards),
        "size_mib": round(sum(shard.size_bytes for shard in manifest.shards) / 2**20, 2),
        "picture": [manifest.width, manifest.height],
        "scales": dict(Counter(scene.origin.scale for scene in manifest.scenes)),
        "with_depth": sum(scene.has_depth for scene in manifest.scenes),
        "with_time": sum(scene.has_time for scene in manifest.scenes),
        "licences": list(manifest.licences),
        "batches_there": len(receipts) - len(made),
        "seconds": round(seconds, 2),
        "rendered_views": rendered,
        "rendered_views_per_s": round(rendered / seconds, 2) if rendered else None,
        "rendered_views_per_core_s": round(rendered / render_cpu_s, 2) if rendered else None,
        "skipped_frames": [line for receipt in receipts for line in receipt.account.skipped],
        "notes": [line for receipt in receipts for line in receipt.account.notes],
    }


def _as_text(
    manifest: Manifest, place: Place, facts: dict[str, Any], failed: dict[str, str], split: str
) -> str:
    scales = ", ".join(f"{count} {scale}" for scale, count in facts["scales"].items())
    lines = [
        f"{facts['scenes']} scenes, {facts['views']} views of {manifest.width}x{manifest.height} "
        f"px in {facts['shards']} shards ({facts['size_mib']} MiB)"
        + (f", split {split}" if split else ""),
        f"scale: {scales}; with depth: {facts['with_depth']}; with a clock: {facts['with_time']}",
        f"licence: {'; '.join(facts['licences'])}",
    ]
    if facts["batches_there"]:
        lines.append(f"{facts['batches_there']} batches were there and verified")
    if facts["rendered_views"]:
        lines.append(
            f"rendered {facts['rendered_views']} views in {facts['seconds']:.1f} s: "
            f"{facts['rendered_views_per_s']} views/s in all, "
            f"{facts['rendered_views_per_core_s']} in each second of a core"
        )
    lines += facts["notes"]
    if facts["skipped_frames"]:
        first = facts["skipped_frames"][0]
        lines.append(f"{len(facts['skipped_frames'])} frames skipped; the first: {first}")
    lines += [f"failed: {why}" for why in failed.values()]
    return "\n".join([*lines, f"shards: {place.url}"])
