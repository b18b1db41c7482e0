"""Loads scikit-learn's digits: 1,797 real images of 8x8 with exact values from 0 to 16.

They come within scikit-learn. The images to test on are a fixed fifth of each class; see
:func:`densespec.data.dataset.held_out`.
"""

from __future__ import annotations

import numpy as np

from densespec.data.dataset import Dataset
from densespec.installed import require

FULL = 16.0
"""A pixel at full intensity has this value."""


def load() -> Dataset:
    """Load the digits, which have one channel.

    Raises:
        PackageMissing: scikit-learn is not installed; the message says what to install.
    """
    require("the digits, which come within scikit-learn,", "sklearn", extra="data")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    return Dataset.of(x, labels, classes=10, name="digits", scale=FULL)
