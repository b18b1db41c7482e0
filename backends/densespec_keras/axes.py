"""Orders axes on every engine: of numpy arrays, and within models."""

from __future__ import annotations

import numpy as np

from densespec.backends import DataFormat

TO_CHANNELS_LAST = "to_channels_last"
TO_CHANNELS_FIRST = "to_channels_first"


def laid_out(x: np.ndarray, data_format: DataFormat) -> np.ndarray:
    """Bring an array (batch, channels, *size) into a layout; it is contiguous if it changes."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if data_format == "channels_last" else x
