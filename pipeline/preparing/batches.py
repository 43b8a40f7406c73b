"""The unit of work: a few items become a few shards and a receipt, whoever makes them.

A batch's shards are written first and its receipt last, each whole or not at all, so a batch that
was cut is one without a receipt. Made again from the same input it is the same files, but for poses
found by SfM, whose threads don't repeat each other to the last digit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from everview.datasets.errors import DataError
from everview.datasets.guards import MAX_JSON_BYTES, parse_json
from everview.datasets.opening import open_capture
from everview.datasets.shards import PosedScene, ShardFile, ShardWriter, open_place, pack_scene
from everview.datasets.shards.manifest import VERSION
from everview.datasets.shards.places import Place
from everview.datasets.shards.reading import read_shard
from everview.pipeline.errors import EnvironmentUnfit, EverviewError, TryAgain
from everview.pipeline.preparing.account import Account
from everview.pipeline.preparing.capture_scenes import capture_scenes
from everview.pipeline.preparing.config import PrepareConfig
from everview.pipeline.preparing.items import Item
from everview.pipeline.preparing.mesh_scenes import mesh_scenes
from everview.pipeline.runs import disk_errors
from everview.pipeline.streaming.progress import Progress

log = logging.getLogger(__name__)

# Rendered pixels of a batch of meshes: some ten seconds of work and a few MiB.
_BATCH_PIXELS = 2**23
# Small pictures don't make a mesh quick to load: more of them would leave other workers idle.
_BATCH_MESHES = 8
_NO_PLACE_TO_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Plan:
    """All work of a run, which every worker is told. size: (W, H) of the set's pictures."""

    config: PrepareConfig
    place: str
    size: tuple[int, int]
    batches: tuple[tuple[Item, ...], ...]
    threads: int


@dataclass(frozen=True)
class Receipt:
    """What became of a batch. failures: why items failed, by name. was_there: an earlier attempt
    had made it, and its shards verified."""

    number: int
    key: str
    shards: tuple[ShardFile, ...]
    failures: dict[str, str]
    seconds: float
    account: Account = field(default_factory=Account)
    was_there: bool = False

    @property
    def name(self) -> str:
        """Its file."""
        return receipt_name(self.number)

    def to_json(self) -> str:
        """For its file, and from a worker to the driver."""
        return json.dumps(asdict(self), allow_nan=False)

    @staticmethod
    def from_json(text: str, where: str) -> Receipt:
        """Inverse of `to_json`. Raises DataError on anything else."""
        content = parse_json(text, where)
        try:
            return Receipt(
                number=int(content["number"]),
                key=str(content["key"]),
                shards=tuple(ShardFile.from_plain(shard) for shard in content["shards"]),
                failures={str(k): str(v) for k, v in content["failures"].items()},
                seconds=float(content["seconds"]),
                account=Account(**content["account"]),
                was_there=bool(content["was_there"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{where} is damaged ({error})") from None


def receipt_name(number: int) -> str:
    """The file of a batch's receipt, beside its shards."""
    return f"batch-{number:05d}.json"


def grouped(items: Sequence[Item], config: PrepareConfig) -> tuple[tuple[Item, ...], ...]:
    """Items in batches: captures alone, small meshes several together."""
    pixels = config.views * config.lights * config.size**2
    together = min(_BATCH_MESHES, max(1, _BATCH_PIXELS // pixels))
    batches: list[tuple[Item, ...]] = []
    for item in items:
        last = batches[-1] if batches else ()
        if item.kind != "capture" and last and last[0].kind != "capture" and len(last) < together:
            batches[-1] = (*last, item)
        else:
            batches.append((item,))
    return tuple(batches)


def make_batch(plan: Plan, number: int, progress: Progress) -> Receipt:
    """Make batch `number`, or find that it was made from the same input and verifies.

    An item that fails is left out and named in the receipt. Raises EnvironmentUnfit, TryAgain and
    what else would stop every other batch too.
    """
    begin = time.perf_counter()
    items, place = plan.batches[number], open_place(plan.place)
    key = _key(plan, items)
    kept = _kept(place, number, key, plan.size)
    if kept is not None:
        return kept
    account = Account()
    failures: dict[str, str] = {}
    writer = ShardWriter(place, f"shard-{number:05d}")
    with disk_errors(Path(plan.place)):
        for item in items:
            try:
                _add(plan, item, writer, len(items) == 1, account, progress)
            except (EnvironmentUnfit, TryAgain):
                raise
            except Exception as error:
                if getattr(error, "errno", None) in _NO_PLACE_TO_WRITE:
                    raise
                failures[item.name] = _reason(item, error)
        shards = writer.finish()
        seconds = time.perf_counter() - begin
        receipt = Receipt(number, key, shards, failures, seconds, account)
        place.write(receipt.name, receipt.to_json().encode())
    return receipt


def _add(
    plan: Plan,
    item: Item,
    writer: ShardWriter,
    is_alone: bool,
    account: Account,
    progress: Progress,
) -> None:
    """Add an item's scenes to the shards, all or none."""
    config = plan.config
    scenes = (
        pack_scene(scene, config.image_format, config.quality)
        for scene in _scenes_of(plan, item, account, progress)
    )
    if not is_alone:
        for scene in list(scenes):
            writer.add(scene)
        return
    # a long capture is never held whole: what it had given is taken back when it fails
    try:
        for scene in scenes:
            writer.add(scene)
    except Exception:
        writer.discard()
        raise


def _scenes_of(
    plan: Plan, item: Item, account: Account, progress: Progress
) -> Iterator[PosedScene]:
    if item.kind == "capture":
        return capture_scenes(item, plan.config, plan.size, plan.threads, account, progress)
    return mesh_scenes(item, plan.config, plan.size, account)


def _reason(item: Item, error: Exception) -> str:
    if isinstance(error, DataError | EverviewError):
        return str(error)
    log.warning("%s failed\n%s", item.name, "".join(traceback.format_exception(error)))
    return f"{item.name}: {type(error).__name__}: {error}"


def _key(plan: Plan, items: Iterable[Item]) -> str:
    """A hash of the input and of whatever decides what becomes of it."""
    digest = hashlib.sha256()
    settings = {k: v for k, v in asdict(plan.config).items() if k not in ("sources", "to")}
    digest.update(json.dumps([VERSION, settings, plan.size], sort_keys=True).encode())
    for item in items:
        digest.update(f"|{item.kind}|{item.name}|{_identity(item)}".encode())
    return digest.hexdigest()


def _identity(item: Item) -> str:
    try:
        if item.kind == "capture":
            return open_capture(item.source).identity()
        files = [Path(item.source)]
        files += [Path(item.source).with_suffix(".jpg")] if item.kind == "ycb" else []
        return ";".join(f"{s.st_size},{s.st_mtime_ns}" for s in (file.stat() for file in files))
    except (DataError, OSError) as error:
        return f"unreadable: {error}"  # making it will say so


def _kept(place: Place, number: int, key: str, size: tuple[int, int]) -> Receipt | None:
    """The receipt of an earlier attempt, if nothing failed in it and its shards verify."""
    content: Any = place.read(receipt_name(number), MAX_JSON_BYTES)
    if content is None:
        return None
    try:
        receipt = Receipt.from_json(content.decode("utf-8"), place.describe(receipt_name(number)))
        if receipt.key != key or receipt.failures:
            return None
        for shard in receipt.shards:
            read_shard(place, shard, (size[1], size[0]))
    except (DataError, UnicodeDecodeError) as error:
        log.warning("%s; it is made again", error)
        return None
    return Receipt(number, key, receipt.shards, {}, 0.0, receipt.account, was_there=True)
