"""Prepares what is exported: a network and its arrays, from weights, a built model or a seed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from densespec.backends import get_backend
from densespec.building import origin_of, read_weights
from densespec.errors import DensespecError, SpecError
from densespec.network.arrays import Arrays, select_weights
from densespec.network.catalogue import catalogue, resolve
from densespec.network.files import SUFFIXES
from densespec.network.graph import Graph, Node, Pooling, lower
from densespec.network.initial import initial_weights
from densespec.network.ops import Affine, Input
from densespec.network.passes import prepare
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.accompaniment import LINEAR, NOTHING, Accompaniment
from densespec.pretrained.preprocessing import Preprocessing
from densespec.weights.given import warn_of
from densespec.weights.opening import open_weights
from densespec.weights.reading import AS_THEY_ARE, ReadingOptions

Runner = Callable[[np.ndarray], np.ndarray | Sequence[np.ndarray]]
"""Takes (batch, channels, *spatial) and returns one value, or several in order, channels first."""


Shower = Callable[[np.ndarray, Sequence[str]], Mapping[str, np.ndarray]]
"""Takes an input and names, and returns the values within a file that have these names.

In int8 they are those that the next ops read, rounded."""


@dataclass(frozen=True)
class ExportedProgram:
    """Holds an exported file that was read and can be run.

    Attributes:
        run: The function that runs it.
        dtype: The type of its input, by numpy's name; ``"uint8"`` stands for images.
        shape: The shape of its input: (batch, channels, *spatial), or (batch, height, width,
            channels) of images. None stands for any size.
        device: The device on which it runs, as its runtime names it.
        show: The function that returns values within it; None if only its output can be seen.
    """

    run: Runner
    dtype: str
    shape: tuple[int | None, ...]
    device: str = "cpu"
    show: Shower | None = None


SIZE_NAMES: Mapping[int, Sequence[str]] = {
    1: ("length",),
    2: ("height", "width"),
    3: ("depth", "height", "width"),
}
"""The dimensions of an input of unknown size have these names, by the number of dimensions."""


@dataclass(frozen=True)
class ExportOptions:
    """Says how a network is written.

    Attributes:
        batch: The one batch size that it takes; None for any.
        dtype: The type of arrays, inputs and outputs.
        optimize: Whether it is rewritten for inference first.
        opset: The version of ONNX's operations; None for the default.
        preprocessing: The preprocessing in the file, whose input is images then; None if it has
            none.
        metadata: Texts to keep in the file, if it can hold any.
    """

    batch: int | None = None
    dtype: str = "float32"
    optimize: bool = True
    opset: int | None = None
    preprocessing: Preprocessing | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenModel:
    """Holds a model that a network was read from, as its framework runs it.

    Attributes:
        graph, arrays: The model's own network and arrays; what is exported may end elsewhere.
        run: The function that runs the model and returns all of its outputs in order.
    """

    graph: Graph
    arrays: Arrays
    run: Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True)
class WeightedGraph:
    """Holds a graph and its canonical arrays.

    Attributes:
        model: The model that they come from; None if there is none.
        accompaniment: What goes with the arrays.
    """

    graph: Graph
    arrays: Arrays
    model: GivenModel | None = None
    accompaniment: Accompaniment = NOTHING


@dataclass(frozen=True)
class WantedEnds:
    """Says where a network has to begin and to end. None means that it does as its source.

    Attributes:
        size: The spatial size of its input; a None in it stands for any size.
        include_top, pooling, softmax: How it ends, as in :func:`densespec.build`.
        outputs: The parts whose values it has to give; empty if it gives what the source gives.
    """

    size: Sequence[int | None] | None = None
    include_top: bool | None = None
    pooling: Pooling | None = None
    softmax: bool | None = None
    outputs: Sequence[str] = ()

    def of(self, graph: Graph) -> Graph:
        """Lower a network anew with these ends.

        Raises:
            ValueError, SpecError: They do not go together, or do not fit.
        """
        size = graph.input_size if self.size is None else self.size
        if (self.include_top, self.pooling, self.softmax) == (None, None, None):
            ends = graph.ends | {"outputs": self.outputs or graph.outputs}
            return lower(graph.spec, size, **ends)
        include_top = graph.has_classifier if self.include_top is None else self.include_top
        activation = graph.classifier_activation if include_top else None
        if self.softmax is not None:
            activation = "softmax" if self.softmax else None
        return lower(
            graph.spec,
            size,
            include_top=include_top,
            pooling=self.pooling or (None if include_top else graph.pooling),
            classifier_activation=activation,
            outputs=self.outputs,
        )


def network_of(
    source: Any,
    wanted: WantedEnds,
    *,
    reading: ReadingOptions = AS_THEY_ARE,
    seed: int | None = None,
) -> WeightedGraph:
    """Find the network in a weight file or a built model, or give a spec initial weights.

    Args:
        source: The path of a weight file, a model that densespec built, a
            :class:`WeightedGraph`, or with ``seed`` a spec.
        wanted: Where the network is to begin and to end.
        reading: What the user says of how to read a weight file.
        seed: The seed of initial weights.

    Raises:
        DensespecError: densespec did not build the model, the file can't be read, or it is said how
            to read a file although there is none.
    """
    if (said := reading.said()) and (seed is not None or not _is_path(source)):
        raise DensespecError(
            f"{' and '.join(said)}: say how to read a weight file, but none is given"
        )
    found = _found(source, wanted, reading, seed)
    graph = wanted.of(found.graph)
    kept = found.accompaniment.fitted_to(graph)
    return WeightedGraph(graph, select_weights(graph, found.arrays), found.model, kept)


def on_images(
    network: WeightedGraph, options: ExportOptions
) -> tuple[WeightedGraph, ExportOptions]:
    """Say how a network is written that takes images.

    It gives probabilities, or the numbers that it was trained to give.

    Raises:
        DensespecError: Nothing says what its images need.
    """
    known, graph = network.accompaniment, network.graph
    if known.preprocessing is None:
        raise DensespecError(
            "nothing says what images need before this network: give weights that do, such as "
            "trained ones by name or a checkpoint of a run"
        )
    sized = lower(
        graph.spec,
        known.preprocessing.size,
        include_top=graph.has_classifier,
        pooling=graph.pooling,
        classifier_activation=_activation(network),
    )
    return replace(network, graph=sized), replace(options, preprocessing=known.preprocessing)


def _activation(network: WeightedGraph) -> str | None:
    """Return what makes probabilities of a network's logits; None if nothing does."""
    graph, outputs = network.graph, network.accompaniment.outputs
    if not graph.has_classifier:
        return None
    return graph.classifier_activation or (None if outputs == LINEAR else outputs)


def _is_path(source: Any) -> bool:
    return isinstance(source, str | os.PathLike)


def _found(
    source: Any, wanted: WantedEnds, reading: ReadingOptions, seed: int | None
) -> WeightedGraph:
    if seed is not None:
        graph = lower(resolve(source))
        return WeightedGraph(graph, initial_weights(graph, seed))
    if isinstance(source, WeightedGraph):
        return source
    if isinstance(source, DenseNetSpec) or (_is_path(source) and _is_spec(source)):
        what = "this" if isinstance(source, DenseNetSpec) else source
        raise DensespecError(
            f"{what} is a spec, which has no weights: give a weight file, or say which initial "
            "weights you want by a seed (--seed 0)"
        )
    if not _is_path(source):
        return _read(source)
    with open_weights(source, **reading.said()) as found:
        warn_of(found, with_head=wanted.include_top is None)
        return WeightedGraph(found.graph, found.arrays(), None, found.accompaniment)


def _read(model: Any) -> WeightedGraph:
    """Read the network of a built model, as it is now."""
    origin = origin_of(model)
    graph, backend = origin.graph, get_backend(origin.backend)
    names = tuple(node.name for node in graph.given)

    def run(x: np.ndarray) -> tuple[np.ndarray, ...]:
        values = backend.forward(model, graph, x, names)
        return tuple(values[name] for name in names)

    arrays = read_weights(model)
    return WeightedGraph(graph, arrays, GivenModel(graph, arrays, run), origin.accompaniment)


def _is_spec(source: str | os.PathLike[str]) -> bool:
    path = Path(source)
    return path.suffix in SUFFIXES or (str(source) in catalogue() and not path.is_file())


def optimized(graph: Graph, arrays: Arrays, *, norms: bool = True) -> tuple[Graph, Arrays]:
    """Prepare a network for inference, in ops that every runtime has and runs fast.

    Runtimes make one pass of a norm and the ReLU after it; a clip by channel they do not know.

    Args:
        norms: Whether norms that could not be folded stay norms with arrays of their own. If not,
            they are scales and shifts, which float16 can hold where it can't hold small variances.
    """
    prepared = prepare(graph, clip=False, arrays=arrays)
    known = dict(arrays) | prepared.fold(arrays)
    nodes = prepared.graph.nodes
    if norms:
        nodes = tuple(
            replace(node, op=graph[node.name].op) if isinstance(node.op, Affine) else node
            for node in nodes
        )
    rewritten = replace(prepared.graph, nodes=nodes)
    return rewritten, {weight.name: known[weight.name] for weight in rewritten.weights}


def smallest_size(graph: Graph) -> int:
    """Find the smallest size in each dimension that leaves something at the end."""

    def fits(size: int) -> bool:
        try:
            lower(graph.spec, (size,) * graph.spec.spatial_dims, **graph.ends)
        except SpecError:
            return False
        return True

    return next(size for size in itertools.count(1) if fits(size))


def described(node: Node, batch: int | None, layout: str) -> list[int | str]:
    """Describe the shape of an input or output in a layout, with names for what may be any size."""
    channels, *sizes = node.shape
    named: Sequence[int | str | None] = sizes
    if isinstance(node.op, Input):
        named = [n or name for n, name in zip(sizes, SIZE_NAMES[len(sizes)], strict=True)]
    places = [channels, *named] if layout == "channels first" else [*named, channels]
    return [batch or "batch", *(place or "any" for place in places)]
