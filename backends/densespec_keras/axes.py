"""The order of axes of numpy arrays, whatever the engine."""

from __future__ import annotations

import numpy as np

from densespec.backends import DataFormat


def laid_out(x: np.ndarray, data_format: DataFormat) -> np.ndarray:
    """Bring an array (batch, channels, *size) into a layout; it is contiguous if it changes."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if data_format == "channels_last" else x
