"""Exports networks to what other programs run (``densespec.export``), and checks every file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from densespec.deploy.check import Measured, measure
from densespec.deploy.check_images import measure_on_images
from densespec.deploy.formats import ExportFormat, Loader, format_of
from densespec.deploy.formats import formats as formats
from densespec.deploy.network import ExportOptions, WantedEnds, network_of, on_images
from densespec.deploy.network import WeightedGraph as WeightedGraph
from densespec.deploy.placing import bytes_of, placed
from densespec.network.graph import Graph, Pooling
from densespec.weights.reading import ReadingOptions, takes_reading_options


@dataclass(frozen=True)
class ExportResult:
    """Describes what was written.

    Attributes:
        path: Where it was written.
        format: The format that was chosen.
        graph: The network as it was before it was rewritten for inference.
        options: The options with which it was written.
        bytes: The size in bytes of the file, or of all files in the folder.
        measured: The difference from the reference; None if it was not checked.
        unchecked: Why it could not be checked; None if it was checked, or was not to be checked.
    """

    path: Path
    format: ExportFormat
    graph: Graph
    options: ExportOptions
    bytes: int
    measured: Measured | None
    unchecked: str | None = None


@takes_reading_options
def export(
    source: Any,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    size: Sequence[int | None] | None = None,
    batch: int | None = None,
    dtype: str = "float32",
    optimize: bool = True,
    include_top: bool | None = None,
    pooling: Pooling | None = None,
    softmax: bool | None = None,
    outputs: Sequence[str] = (),
    with_preprocessing: bool = False,
    opset: int | None = None,
    check: bool = True,
    seed: int | None = None,
    **reading: Any,
) -> ExportResult:
    """Write a network as ONNX, OpenVINO IR, LiteRT, ``torch.export``, a SavedModel or StableHLO.

    Every file is loaded and run before it takes its place: a file that does not compute what the
    float64 reference does is not written. Inputs and outputs are (batch, *the axes in the order
    that the format says).

    Args:
        source: The path of a weight file of any layout, a model that densespec built, or with
            ``seed`` a variant's name or another spec, with initial weights.
        path: The path of the file, or of the folder for a SavedModel.
        format: A name of :func:`densespec.deploy.formats`; None to go by the path's suffix.
        size: The spatial size of the input, such as (224, 224); None for any size, or for the built
            model's size.
        batch: The one batch size that it takes; None for any.
        dtype: The type of arrays, inputs and outputs.
        optimize: Whether the network is rewritten for inference: norms are folded, and so on.
        include_top, pooling, softmax: Where the network ends; None for the source's own end.
        outputs: The parts whose values it gives, as in :func:`densespec.build`; empty for what the
            source gives.
        with_preprocessing: Whether the file takes images, bytes (batch, height, width, channels) of
            any size, prepares them as its weights say, and gives probabilities.
        opset: The version of ONNX's operations; None for the default.
        check: Whether to load and run what was written.
        seed: The seed of initial weights.
        {reading}

    Raises:
        PackageMissing: A package is missing; the message says what to install.
        DensespecError: The source can't be read, or what was written differs from the reference.
        ValueError: Options do not go together.

    Warns:
        WeightsWarning: Something is assumed of a weight file, or left out.
    """
    path = Path(path)
    said = ReadingOptions(**reading)
    chosen = format_of(path, format)
    options = ExportOptions(batch=batch, dtype=dtype, optimize=optimize, opset=opset)
    _check_options(chosen, options)
    if with_preprocessing and not chosen.takes_images:
        able = ", ".join(each.about for each in formats().values() if each.takes_images)
        raise ValueError(f"with_preprocessing: {chosen.about} can't hold it; {able} can")
    if with_preprocessing and outputs:
        raise ValueError("outputs: with_preprocessing gives probabilities alone")
    if with_preprocessing and size is not None:
        raise ValueError("size: with_preprocessing takes images of any size, so give no size")
    chosen.require_packages()
    wanted = WantedEnds(size, include_top, pooling, softmax, outputs)
    unchecked = chosen.missing_runtime() if check else None
    with placed(path, chosen) as temporary:
        network = network_of(source, wanted, reading=said, seed=seed)
        options = replace(options, metadata=network.accompaniment.texts())
        if with_preprocessing:
            network, options = on_images(network, options)
        loader = chosen.write(network.graph, network.arrays, temporary, options)
        checked = check and not unchecked
        measured = _measured(chosen, loader, network, options) if checked else None
        size_in_bytes = bytes_of(temporary, chosen)
    return ExportResult(path, chosen, network.graph, options, size_in_bytes, measured, unchecked)


def _measured(
    chosen: ExportFormat, loader: Loader, network: WeightedGraph, options: ExportOptions
) -> Measured:
    if options.preprocessing is not None:
        return measure_on_images(loader(), network, options, options.preprocessing)
    return measure(loader(), network, options, chosen.least_size(network.graph))


def _check_options(chosen: ExportFormat, options: ExportOptions) -> None:
    if options.dtype not in chosen.dtypes:
        dtypes = " or ".join(chosen.dtypes)
        raise ValueError(f"dtype = {options.dtype!r}, but {chosen.about} is written in {dtypes}")
    if options.opset is not None and not chosen.has_opsets:
        raise ValueError(f"opset = {options.opset}, but {chosen.about} has no opsets: ONNX has")
    if options.batch is not None and options.batch < 1:
        raise ValueError(f"batch = {options.batch}, but should be at least 1, or None for any")
