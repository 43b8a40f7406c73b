"""Views as tokens see them: a stack is trained on so many tokens a view, and sees no more of them.

Positions in an image, and how finely a patch cuts it, are learned: with 32 x 32 tokens where 16 x
16 were trained, a can at 256 px came with a bite out of its side. So tokens are made of a view that
is reduced until it has as many, and pixels of any size are made of their answer by what works at
pixels, the fine sweep and the copy. The campaign log, entry 17.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from everview.datasets.cameras import Cameras
from everview.models.config import ModelConfig
from everview.models.frame_bank import fitted


@dataclass(frozen=True)
class TokenViews:
    """Reduces views to the tokens of a configuration."""

    config: ModelConfig

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the view that tokens are made of, in pixels.

        Raises ValueError unless both sides given are multiples of the patch.
        """
        rows, columns = self.config.token_grid(height, width)
        return rows * self.config.patch, columns * self.config.patch

    def cameras(self, cameras: Cameras) -> Cameras:
        """Of the reduced views; the same where nothing has to be reduced."""
        height, width = self.size(cameras.height, cameras.width)
        if (height, width) == (cameras.height, cameras.width):
            return cameras
        return cameras.resized(width, height)

    def of(self, images_BV3HW: Tensor, cameras: Cameras) -> tuple[Tensor, Cameras]:
        """Reduced images, antialiased, and their cameras. Raises ValueError for images of another
        size than their cameras."""
        size = cameras.height, cameras.width
        if images_BV3HW.shape[-2:] != size:
            width, height = images_BV3HW.shape[-1], images_BV3HW.shape[-2]
            raise ValueError(f"images of {width}x{height} for cameras of {size[1]}x{size[0]}")
        return fitted(images_BV3HW, cameras, *self.size(cameras.height, cameras.width))
