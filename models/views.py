"""Posed images on a device: what a scene model observes and what training compares against.

Shapes: B scenes, V views, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from everview.datasets.cameras import Cameras


@dataclass(frozen=True, eq=False)
class Views:
    """V views of each of B scenes.

    images: [B, V, 3, H, W] in [0, 1], or None. cameras: [B, V] in the capture's world.
    time_s: seconds [B, V], NaN where unknown, or None. depth: z-depth in the capture's world units
    [B, V, H, W], 0 where unknown, or None.
    """

    images: Tensor | None
    cameras: Cameras
    time_s: Tensor | None = None
    depth: Tensor | None = None

    def __getitem__(self, views: slice) -> Views:
        """A slice of the view axis."""
        return Views(
            None if self.images is None else self.images[:, views],
            self.cameras[:, views],
            None if self.time_s is None else self.time_s[:, views],
            None if self.depth is None else self.depth[:, views],
        )

    def in_cameras(self, cameras: Cameras) -> Views:
        """The same views with other cameras (another frame of reference)."""
        return replace(self, cameras=cameras)


def check_sizes(images: Tensor, cameras: Cameras, scenes: int) -> None:
    """Raises ValueError unless images [B, V, 3, H, W] and cameras [B, V] are of `scenes` scenes."""
    lead, size = tuple(cameras.shape), (cameras.height, cameras.width)
    if images.shape != (*lead, 3, *size) or lead[0] != scenes:
        raise ValueError(
            f"images {tuple(images.shape)}, cameras {lead} of {size[1]}x{size[0]} and a state of "
            f"{scenes} scenes don't belong together"
        )
