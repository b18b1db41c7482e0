"""Writes ONNX files in int8 by ONNX Runtime's static quantisation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

QUANTIZED = ("Conv", "Gemm")
"""These ops compute in int8, nearly all of the work. Norms and concatenations stay float32."""


def write(source: Path, path: Path, inputs: Iterable[np.ndarray]) -> None:
    """Write a float32 file again, with convolutions and dense layers in int8, channel by channel.

    Args:
        source: The float32 file.
        path: Where the new one is written.
        inputs: Inputs as the file takes them; the ranges of values are taken from them.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    (taken,) = onnx.load(source).graph.input

    class Inputs(CalibrationDataReader):
        rest: Iterator[np.ndarray] = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self.rest, None)
            return None if x is None else {taken.name: x}

    with _without_advice():
        quantize_static(
            source,
            path,
            Inputs(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
        )


def wrote(path: Path) -> bool:
    """Tell whether a file rounds values to integers: nothing else contains that op's name."""
    return b"QuantizeLinear" in path.read_bytes()


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Leave out what it advises users to do before, which has been done: norms are folded."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
