"""How far a picture is from its truth, as a picture."""

from __future__ import annotations

import numpy as np

# black - violet - red - orange - white, brightness rising evenly
_RAMP = np.array(
    [[6, 6, 12], [72, 20, 104], [182, 42, 74], [238, 120, 32], [250, 230, 140], [255, 255, 255]],
    np.float64,
)
# Errors are small; half of full scale is already the brightest.
FULL_ERROR = 0.5


def error_picture(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean absolute error over channels of two uint8 [H, W, 3] images, as colours, same shape.

    Black is equal, white an error of FULL_ERROR of full scale or more.
    """
    error = np.abs(prediction.astype(np.float64) - truth.astype(np.float64)).mean(-1) / 255
    level = np.clip(error / FULL_ERROR, 0, 1)
    knots = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(level, knots, channel) for channel in _RAMP.T]
    return np.stack(channels, -1).round().astype(np.uint8)
