"""Exports a network in int8: first in float32, which is checked, and then again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densespec.data import Dataset, load
from densespec.deploy import ExportResult, export
from densespec.deploy.formats import ExportFormat, Int8Writer, format_of, formats
from densespec.deploy.network import WantedEnds, WeightedGraph, network_of
from densespec.deploy.placing import bytes_of, placed
from densespec.errors import DensespecError
from densespec.installed import require
from densespec.quantizing.calibration import images_of
from densespec.quantizing.comparing import Comparison, Int8Disagrees, compare
from densespec.weights.reading import ReadingOptions, takes_reading_options

CALIBRATED = 300
"""The ranges of values are taken from this many images."""

COMPARED = 1000
"""This many held-out images are compared."""

LEAST = 0.95
"""At least this part of the held-out images has to keep its likeliest class."""


@dataclass(frozen=True)
class Int8Result:
    """Describes what was written in int8.

    Attributes:
        path: Where it was written.
        bytes: Its size in bytes.
        full: The same network in float32, which was written first, and checked.
        comparison: The comparison of both on held-out images.
    """

    path: Path
    bytes: int
    full: ExportResult
    comparison: Comparison


@takes_reading_options
def export_int8(
    source: Any,
    path: str | os.PathLike[str],
    calibrate: str | Dataset,
    *,
    format: str | None = None,  # noqa: A002
    size: Sequence[int | None] | None = None,
    batch: int | None = None,
    softmax: bool | None = None,
    with_preprocessing: bool = False,
    opset: int | None = None,
    calibrated: int = CALIBRATED,
    compared: int = COMPARED,
    least_agreement: float = LEAST,
    seed: int | None = None,
    **reading: Any,
) -> Int8Result:
    """Write a network whose convolutions and dense layers compute in int8.

    It is exported in float32 first, and checked as :func:`densespec.export` does. The ranges of
    values are taken of images to train on, prepared as the network's weights say; both files are
    compared on images to test on, and timed. Inputs and outputs stay float32.

    Args:
        source: As for :func:`densespec.export`; its weights have to say what images need.
        path: The path of the file.
        calibrate: A data set, or what :func:`densespec.data.load` takes, such as
            ``"folder:photos"``.
        format, size, batch, softmax, with_preprocessing, opset, seed: As for
            :func:`densespec.export`.
        calibrated: How many images the ranges are taken of, at most.
        compared: How many images to test on are looked at, at most.
        least_agreement: The part of those whose likeliest class has to stay the same.
        {reading}

    Raises:
        Int8Disagrees: Too few of the likeliest classes stay the same; nothing is written.
        PackageMissing: A package is missing; the message says what to install.
        DensespecError: The source can't be read, nothing says what images need, or the format has
            no int8.
        ValueError: Options do not go together.
    """
    path = Path(path)
    chosen = format_of(path, format)
    writer = _writer(chosen)
    wanted = WantedEnds(size, softmax=softmax)
    network = network_of(source, wanted, reading=ReadingOptions(**reading), seed=seed)
    _check_classifies(network)
    with tempfile.TemporaryDirectory() as folder, placed(path, chosen) as temporary:
        before = Path(folder) / f"float32{path.suffix}"
        options = {"batch": batch, "opset": opset, "with_preprocessing": with_preprocessing}
        full = export(network, before, format=chosen.name, **options)  # type: ignore[arg-type]
        assert chosen.load is not None
        program = chosen.load(before)
        images = images_of(
            _dataset(calibrate, network),
            network.accompaniment,
            inside=program.dtype == "uint8",
            batch=program.shape[0],
        )
        writer.write(before, temporary, images.inputs("train", calibrated))
        comparison = compare(program, chosen.load(temporary), images, compared)
        if comparison.agreement < least_agreement:
            raise Int8Disagrees(comparison, least_agreement)
        written = bytes_of(temporary, chosen)
    return Int8Result(path, written, full, comparison)


def _writer(chosen: ExportFormat) -> Int8Writer:
    """Return what writes a format in int8, once all that is needed for it is installed."""
    if chosen.int8 is None:
        able = ", ".join(each.about for each in formats().values() if each.int8)
        raise DensespecError(f"{chosen.about} has no int8 here, but these have: {able}")
    chosen.require_packages()
    for package in (chosen.runtime, chosen.int8.package):
        require(f"{chosen.about} in int8", package, extra=chosen.int8.extra)
    return chosen.int8


def _check_classifies(network: WeightedGraph) -> None:
    graph = network.graph
    if not graph.has_classifier or graph.outputs:
        raise DensespecError(
            "int8 is judged by the likeliest classes, but the network gives feature maps: export "
            "it with its classifier"
        )


def _dataset(calibrate: str | Dataset, network: WeightedGraph) -> Dataset:
    if isinstance(calibrate, Dataset):
        return calibrate
    return load(calibrate, channels=network.graph.spec.in_channels)
