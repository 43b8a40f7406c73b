"""Which pixels of a frame show something that moved: where the memory was sure and is wrong.

Before a chunk is learned its cameras are drawn from the memory as it was. Where that prediction is
confident, a static scene agrees with the frame up to sharpness and noise; where it isn't, the place
is new and says nothing about motion. So a block of pixels has moved when the memory was sure of it
and its mean colour is off by far more than that of the other sure blocks.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter, uniform_filter

_BLOCKS = 24  # along the short side: colours are compared over blocks, whose sharpness is alike
_SURE = 0.5  # quantile of the prediction's confidence above which it was sure
_SPREADS = 3.0  # robust standard deviations beyond the median residual
_LEAST = 0.06  # of the range of colours: what light and noise do to things that stand still


def moving_pixels(image: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """True where the frame shows something else than the memory surely expected, bool [H, W].

    image: the frame, uint8 [H, W, 3]. predicted, confidence: what the memory draws at its camera,
    uint8 [h, w, 3] and float [h, w], at this size or another.
    """
    rows, columns = predicted.shape[:2]
    seen = _shrunk(image, rows, columns)
    side = max(1, round(min(rows, columns) / _BLOCKS))
    offset = (seen - predicted.astype(np.float32)) / 255
    residual = np.abs(uniform_filter(offset, (side, side, 0))).mean(axis=2)
    sure = confidence >= np.quantile(confidence, _SURE)
    middle = float(np.median(residual[sure]))
    spread = 1.4826 * float(np.median(np.abs(residual[sure] - middle)))
    moved = sure & (residual > max(_LEAST, middle + _SPREADS * spread))
    # a block's rim shows what moved too
    moved = maximum_filter(moved, 2 * side + 1)
    height, width = image.shape[:2]
    return moved[np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)]


def _shrunk(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The mean colour of each cell of a rows x columns grid, float32."""
    if image.shape[:2] == (rows, columns):
        return image.astype(np.float32)
    down = np.arange(rows) * image.shape[0] // rows
    across = np.arange(columns) * image.shape[1] // columns
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float32), down, 0), across, 1)
    high = np.diff([*down, image.shape[0]])[:, None, None]
    wide = np.diff([*across, image.shape[1]])[None, :, None]
    return sums / (high * wide)
