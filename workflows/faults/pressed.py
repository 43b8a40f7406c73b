"""A trainer's feed through an object store that is much smaller than what passes through it.

    python -m everview.workflows.faults.pressed SEED

Blocks of 24 MiB are made by two tasks of Ray Data (`block_stream`) in a cluster of 200 MiB of
object store, three stores full of them, and taken slowly. Prints what it came to; exit code 1 when
a block is missing, out of order or changed, or when memory was not bounded.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import torch

from everview.pipeline.cluster import ClusterConfig, cluster
from everview.pipeline.streaming.memory_use import resident_mib
from everview.pipeline.training.block_stream import AHEAD, block_stream
from everview.pipeline.training.scene_pool import SceneViews

STORE_MIB, BLOCK_MIB = 200, 24
BLOCKS = 3 * STORE_MIB // BLOCK_MIB
_PAUSE_S = 0.3
_SIDE, _VIEWS = 256, 16
_SCENES = BLOCK_MIB * 2**20 // (_VIEWS * _SIDE**2 * 5)


def made(seed: int, number: int) -> SceneViews:
    """Block `number`: noise of its own, five bytes a pixel."""
    source = torch.Generator().manual_seed(1000 * seed + number)
    lead = (_SCENES, _VIEWS)
    images = torch.randint(0, 256, (*lead, 3, _SIDE, _SIDE), dtype=torch.uint8, generator=source)
    return SceneViews(
        images=images,
        depth=images[:, :, 0].half(),
        intrinsics=torch.full((*lead, 4), float(number)),
        c2w_cv=torch.eye(4).expand(*lead, 4, 4).contiguous(),
        time_s=torch.zeros(lead),
        moving=torch.zeros(_SCENES, dtype=torch.bool),
    )


def main() -> int:
    """The exit code."""
    seed = int(sys.argv[1])
    most, taken = 0.0, 0
    with cluster(ClusterConfig(address="local", cpus=2, object_store_mib=STORE_MIB)):
        blocks = block_stream(partial(made, seed), iter(range(BLOCKS)))
        first = resident_mib()
        for number, block in enumerate(blocks):
            expected = made(seed, number)
            pairs = ((getattr(block, name), value) for name, value in vars(expected).items())
            if not all(torch.equal(found, value) for found, value in pairs):
                print(f"block {number} is not as it was made")
                return 1
            taken += 1
            most = max(most, resident_mib() - first)
            time.sleep(_PAUSE_S)
    # what waits, what is compared with what, and what is mapped of the store
    limit = (AHEAD + 4) * BLOCK_MIB * 2 + STORE_MIB
    print(
        f"{BLOCKS} blocks of {BLOCK_MIB} MiB through a store of {STORE_MIB} MiB: all in order and "
        f"as made; resident memory up by {most:.0f} MiB, at most {limit} allowed"
    )
    return 0 if most < limit and taken == BLOCKS else 1


if __name__ == "__main__":
    sys.exit(main())
