"""Writes LiteRT's files in int8 by its quantizer, which takes the float32 file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from densespec_keras.axes import laid_out


def write(source: Path, path: Path, inputs: Iterable[np.ndarray]) -> None:
    """Write a float32 file again, with all that LiteRT can compute in int8, channel by channel.

    Args:
        source: The float32 file.
        path: Where the new one is written.
        inputs: Inputs, channels first; the ranges of values are taken from them.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    ((signature, about),) = Interpreter(str(source)).get_signature_list().items()
    (name,) = about["inputs"]
    examples = [{name: laid_out(x, "channels_last")} for x in inputs]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        working = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            working.update_quantization_recipe(
                ".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
            )
        ranges = working.calibrate({signature: examples})
        path.write_bytes(working.quantize(ranges).quantized_model)


def wrote(path: Path) -> bool:
    """Tell whether a file has values in int8; what can't be read has none."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        values = Interpreter(str(path)).get_tensor_details()
    except ValueError:
        return False
    return any(value["dtype"] == np.int8 for value in values)
