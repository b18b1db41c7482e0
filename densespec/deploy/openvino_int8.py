"""Writes OpenVINO IR in int8 by NNCF."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np


def write(source: Path, path: Path, inputs: Iterable[np.ndarray]) -> None:
    """Write a float32 network again, in int8 wherever OpenVINO gains by it.

    Args:
        source: The float32 network.
        path: Where the new one is written.
        inputs: Inputs as the network takes them; the ranges of values are taken from them.
    """
    import nncf
    import openvino

    examples = list(inputs)
    model = openvino.Core().read_model(source)
    quantized = nncf.quantize(model, nncf.Dataset(examples), subset_size=len(examples))
    openvino.save_model(quantized, path, compress_to_fp16=False)


def wrote(path: Path) -> bool:
    """Tell whether a network rounds values to a few levels."""
    return b'type="FakeQuantize"' in path.read_bytes()
