"""Keeps float64 as it is on Keras's torch and JAX engines.

There, Keras's type promotion turns every float64 result into float32: a model built with
``dtype="float64"`` quietly computes its norms, means and losses in float32 (a relative error of
1e-7 where 1e-15 was asked for). Its table of demotions is the one place that decides this.
"""

from __future__ import annotations

import importlib
from typing import Any

DTYPES_MODULE = "keras.src.backend.common.dtypes"


def keep_float64() -> None:
    """Stop Keras from demoting float64 in this process. Other dtypes are not touched.

    Raises:
        RuntimeError: this version of Keras decides promotion elsewhere, so float64 is impossible.
    """
    module: Any = importlib.import_module(DTYPES_MODULE)
    demotions = getattr(module, "BIT64_TO_BIT32_DTYPE", None)
    if not isinstance(demotions, dict):
        raise RuntimeError(
            "dtype = 'float64', but this version of Keras computes parts of it in float32 on this "
            f"engine, and {DTYPES_MODULE} no longer says where; use backend='torch.nn' or "
            "'tensorflow' for float64"
        )
    demotions["float64"] = "float64"
    for name in ("_lattice_result_type", "_least_upper_bound"):
        cache_clear = getattr(getattr(module, name, None), "cache_clear", None)
        if cache_clear is not None:
            cache_clear()
