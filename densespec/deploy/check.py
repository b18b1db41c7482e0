"""Checks that an exported file computes what the reference does."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from densespec.deploy.network import (
    ExportOptions,
    GivenModel,
    Runner,
    WeightedGraph,
    smallest_size,
)
from densespec.errors import DensespecError, bare
from densespec.network.graph import Graph
from densespec.reference.model import ReferenceModel

TOLERANCES: Mapping[str, float] = {"float32": 1e-5, "float16": 1e-2}
"""An output may be this far from the reference, as a part of the largest value.

Float32 rounds by 6e-8 and float16 by 5e-4, once in each of some hundred layers.
"""

PROBES: Mapping[bool, tuple[tuple[int, ...], ...]] = {
    True: ((64, 64, 64), (61, 75, 67)),
    False: ((32, 32, 32), (29, 37, 31)),
}
"""A network of any size is run at these sizes, by whether its stem makes maps smaller."""
PROBES_3D: tuple[tuple[int, ...], ...] = ((32, 32, 32), (33, 35, 37))
DISTURBANCE = 2.0**-8
"""A given model's inputs are moved this far, as a part of each value.

Where the model rounds as coarsely as bfloat16, all of its roundings are different then.
"""
DISTURBED, ROUGHEST = 4, 4.0
"""The inputs are moved this often, and a rounding may be this many times what the moves show."""

COMPARED = 2
"""This many samples of a batch are compared, as the reference takes its time."""


class WrongExport(DensespecError):
    """What was written does not compute what the network, or the given model, computes."""


@dataclass(frozen=True)
class Measured:
    """Tells how far an exported file is from the reference.

    Attributes:
        difference: The largest difference, as a part of the largest value of the reference.
        shapes: The shapes of the inputs that it was run on, (batch, channels, *spatial).
    """

    difference: float
    shapes: tuple[tuple[int, ...], ...]


def measure(
    run: Runner, network: WeightedGraph, options: ExportOptions, least: int | None = None
) -> Measured:
    """Run an exported file on seeded inputs of several shapes and compare it with the reference.

    Args:
        run: What runs the file.
        network: The network that the file should be.
        options: How it was written.
        least: The least size that it takes where it takes any; None for the network's own.

    Raises:
        WrongExport: It can't be run on one of them, differs by more than rounding, or gives another
            shape; or the model that the network was read from computes something else.
    """
    reference = ReferenceModel(network.graph, network.arrays)
    if network.model is not None:
        check_model(network.model)
    shapes, differences = tuple(_shapes(network.graph, options, least)), []
    for shape in shapes:
        x = _drawn(shape, options.dtype)
        differences.append(_largest(_outputs(run, x), reference, x[:COMPARED], shape))
    difference, tolerance = max(differences), TOLERANCES[options.dtype]
    if not difference <= tolerance:  # NaN is wrong as well
        raise WrongExport(
            f"the exported network differs from the reference by {difference:.1e} of the largest "
            f"value, where {options.dtype} may differ by {tolerance:.0e}: nothing was written"
        )
    return Measured(difference, shapes)


def check_model(model: GivenModel) -> None:
    """Check that the model which a network was read from computes what the reference does.

    Raises:
        WrongExport: It computes something else, such as by a change that was not seen.
    """
    shape = next(_shapes(model.graph, ExportOptions(batch=COMPARED)))
    x = _drawn(shape, "float32")
    difference = _largest(model.run(x), ReferenceModel(model.graph, model.arrays), x, shape)
    tolerance = max(TOLERANCES["float32"], ROUGHEST * _roughness(model, x))
    if not difference <= tolerance:
        raise WrongExport(
            f"the given model differs from the reference by {difference:.1e} of the largest value, "
            f"where its own rounding explains {tolerance:.1e}: it computes something that its spec "
            "does not say, and nothing was written"
        )


def _roughness(model: GivenModel, x: np.ndarray) -> float:
    """Measure how coarsely a model rounds, whatever types it and its device compute in.

    Between f(x - d), f(x) and f(x + d) a network is nearly straight. The rest is rounding, which
    differs at each of them. A model that computes something else is as straight.
    """
    middle, random = model.run(x), np.random.default_rng(0)
    found = 0.0
    for _ in range(DISTURBED):
        together, apart = random.standard_normal((len(x), *[1] * (x.ndim - 1))), x.shape
        factor = together + random.standard_normal(apart)  # both move outputs and all before them
        moved = (DISTURBANCE * x * factor).astype(x.dtype)
        around = zip(model.run(x - moved), middle, model.run(x + moved), strict=True)
        found = max(found, *(_bend(*(y.astype(np.float64) for y in ys)) for ys in around))
    return found


def _bend(before: np.ndarray, middle: np.ndarray, behind: np.ndarray) -> float:
    """Measure how far three values are from a straight line, as a part of the largest."""
    return float(np.abs(before + behind - 2 * middle).max() / (np.abs(middle).max() or 1.0))


def _drawn(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Draw an input, the same one for a shape each time."""
    random = np.random.default_rng(zlib.crc32(repr(shape).encode()))
    return random.standard_normal(shape).astype(dtype)


def _outputs(run: Runner, x: np.ndarray) -> Sequence[np.ndarray]:
    """Run a file, whose runtime may raise anything.

    Raises:
        WrongExport: It can't be run on this input.
    """
    try:
        given = run(x)
    except Exception as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WrongExport(
            f"the exported network does not run on an input of shape {x.shape}: {bare(why)}: "
            "nothing was written"
        ) from error
    return (given,) if isinstance(given, np.ndarray) else given


def _largest(
    actual: Sequence[np.ndarray], reference: ReferenceModel, x: np.ndarray, shape: tuple[int, ...]
) -> float:
    """Return the largest difference of any value that a network gives."""
    names = [node.name for node in reference.graph.given]
    expected = reference.run(x.astype(np.float64), taps=names)
    pairs = zip(actual, (expected[name] for name in names), strict=True)
    return max(_difference(ours, theirs, shape) for ours, theirs in pairs)


def _difference(actual: np.ndarray, expected: np.ndarray, shape: tuple[int, ...]) -> float:
    should_be = (shape[0], *expected.shape[1:])
    if actual.shape != should_be:
        raise WrongExport(
            f"for an input of shape {shape} the exported network gives {actual.shape}, but should "
            f"give {should_be}: nothing was written"
        )
    apart = np.abs(actual[:COMPARED].astype(np.float64) - expected).max()
    return float(apart / (np.abs(expected).max() or 1.0))


def _shapes(
    graph: Graph, options: ExportOptions, least: int | None = None
) -> Iterator[tuple[int, ...]]:
    """Yield usual and odd sizes, and the least one with one sample and with several."""
    spec, known = graph.spec, graph.input_size
    probes = PROBES_3D if len(known) == 3 else PROBES[spec.shrinks_early]
    least = least or smallest_size(graph)
    if None not in known:
        tries = [(2, probes[0])]
    else:
        tries = [(2, probes[0]), (1, probes[1]), (1, (least,) * 3), (2, (least,) * 3)]
    shapes = [
        (
            options.batch or count,
            spec.in_channels,
            *(n or max(probe, least) for n, probe in zip(known, sizes, strict=False)),
        )
        for count, sizes in tries
    ]
    yield from dict.fromkeys(shapes)
