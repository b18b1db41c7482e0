"""The types of arrays that files of weights have, numpy's and those of ``ml_dtypes``."""

from __future__ import annotations

import ml_dtypes
import numpy as np

DTYPES = ("float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool")


def dtype_of(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, name))
