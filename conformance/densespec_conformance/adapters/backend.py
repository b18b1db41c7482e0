"""A constructor is made into a :class:`densespec.backends.Backend` of one network."""

from __future__ import annotations

import contextlib
import functools
import importlib
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from densespec.backends import Backend, DataFormat, Trainer
from densespec.errors import DensespecError, WeightsError
from densespec.network.arrays import Arrays, check_weights
from densespec.network.graph import Graph, Node, lower
from densespec.network.ops import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dropout,
    GroupNorm,
    PRelu,
    Relu,
)
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.kernels import KERNELS, Context
from densespec.weights.layouts import from_canonical
from densespec.weights.opening import open_weights
from densespec.weights.tensors import Tensor
from densespec_conformance.adapters.constructing import choose_engine, construct, load
from densespec_conformance.adapters.foreign import ForeignNetwork, canonical_arrays
from densespec_conformance.adapters.matching import ForeignNames, Match, match, names_of
from densespec_conformance.asking.constructor import Constructor, ConstructorError, parse
from densespec_conformance.asking.questions import natural_size
from densespec_conformance.asking.requests import NetworkToBuild

NORMS, ACTIVATIONS = (BatchNorm, GroupNorm), (Relu, Activation, PRelu)

FRAMEWORKS = (("keras", "keras_models"), ("torch", "torch_modules"), ("flax.nnx", "flax_modules"))
"""Each framework, and the module here that knows it and imports it. Keras's models are modules of
PyTorch on one engine, so Keras is asked first."""


def backend_for(target: str, spec: DenseNetSpec, weights: str | None = None) -> Backend:
    """Find the backend that a target names, or make one of the constructor that it names.

    Args:
        target: The text ``module:callable``, or a short form; see
            :mod:`densespec_conformance.asking.constructor`.
        spec: The network that the constructor makes.
        weights: The file with the weights that the network has if none are given.

    Raises:
        ConstructorError: The target can't be imported.
    """
    constructor = parse(target)
    choose_engine(constructor)
    found = load(constructor)
    if isinstance(found, Backend) and not isinstance(found, type):
        return found
    return ConstructorBackend(constructor, found, spec, weights)


@dataclass(frozen=True)
class Built:
    """Holds a network of the constructor that is about to be asked something."""

    network: ForeignNetwork
    graph: Graph
    names: ForeignNames

    @functools.cached_property
    def match(self) -> Match:
        return match(self.graph, self.names)

    @property
    def how(self) -> str:
        """Say how its arrays were recognised, or why they could not be."""
        try:
            return self.match.how
        except WeightsError as error:
            return str(error)

    @functools.cached_property
    def part_of(self) -> dict[str, str]:
        """Return the module or layer of every node with weights; nothing for another network."""
        try:
            keys = self.match.keys
        except WeightsError:
            return {}
        return {name.rpartition(".")[0]: self.names.arrays[key].part for name, key in keys.items()}


@dataclass
class _Kept:
    """Keeps a network that was made once for many questions."""

    network: ForeignNetwork
    names: ForeignNames
    options: dict[str, Any]
    notes: tuple[str, ...]


class ConstructorBackend:
    """This is a backend of the one network that a constructor makes.

    Each network is made once for a dtype and, where it has a fixed one, an input size. It is reset
    before every question.
    """

    def __init__(
        self, constructor: Constructor, function: Any, spec: DenseNetSpec, weights: str | None
    ) -> None:
        self.constructor, self.function = constructor, function
        self.spec, self.weights = spec, weights
        self._made: dict[tuple[str, tuple[int, ...] | None], _Kept] = {}

    def describe(self, size: tuple[int, ...] | None, dtype: str) -> dict[str, Any]:
        """Say what it is, in fields of a :class:`Description`."""
        kept = self._kept(dtype, size or natural_size(self.spec))
        built = Built(kept.network, lower(self.spec, size, **kept.options), kept.names)
        return {"options": kept.options, "notes": (*kept.notes, built.how)}

    def construct(self, asked: NetworkToBuild) -> tuple[Built, Graph]:
        """Return the network that is asked for, and its graph.

        Raises:
            ConstructorError: Another network than the constructor's is asked for.
        """
        if asked.spec != self.spec:
            raise ConstructorError(f"{self.constructor.text} makes one network, and not any other")
        options: dict[str, Any] = dict(asked.options)
        graph = lower(self.spec, asked.input_size, **options)
        built = self.build(
            graph, asked.weights or {}, dtype=asked.dtype, data_format="channels_first", name=""
        )
        return built, graph

    def data_format(self, requested: DataFormat | None) -> DataFormat:
        return "channels_first"

    def build(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        *,
        dtype: str | None,
        data_format: DataFormat,
        name: str,
    ) -> Built:
        """Return the network these weights, or where there are none, its own."""
        size = tuple(n for n in graph.input_size if n is not None)
        kept = self._kept(dtype or "float32", size or natural_size(self.spec))
        kept.network.reset()
        built = Built(kept.network, graph, kept.names)
        if weights:
            self.write_weights(built, graph, weights)
        return built

    def read_weights(self, model: Built, graph: Graph) -> Arrays:
        return canonical_arrays(model.network, model.match.keys)

    def write_weights(self, model: Built, graph: Graph, weights: Mapping[str, np.ndarray]) -> None:
        axes = model.network.axes
        given = {name: Tensor.of(np.asarray(array)) for name, array in weights.items()}
        model.network.write(
            {
                key: from_canonical(name, given[name], axes).read()
                for name, key in model.match.keys.items()
            }
        )

    def count_parameters(self, model: Built) -> tuple[int, int]:
        return model.network.count_parameters()

    def forward(self, model: Built, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
        """Return its output, and those taps that can be seen from outside.

        What a part with weights gives is a node's value, and what it reads is the value of the node
        before. So a ReLU without a module is seen by the convolution after it.
        """
        output = graph.output.name
        inner = set(taps) - {output}
        parts = set(model.part_of.values()) if inner else set()
        run = model.network.run(x, parts)
        values = _values(model, run.inputs, run.outputs) if inner else {}
        values[output] = run.output
        return {name: values[name] for name in taps if name in values}

    def trainer(self, model: Built, graph: Graph, recipe: TrainingRecipe) -> Trainer:
        return model.network.trainer(model.match.keys, graph, recipe)

    def _kept(self, dtype: str, size: tuple[int, ...]) -> _Kept:
        for key in ((dtype, None), (dtype, size)):
            if key in self._made:
                return self._made[key]
        kept = self._make(dtype, size)
        self._made[dtype, None if kept.network.any_size else size] = kept
        return kept

    def _make(self, dtype: str, size: tuple[int, ...]) -> _Kept:
        had_keras = "keras" in sys.modules
        with _making(dtype):
            made = construct(self.constructor, self.function, self.spec, size)
        if not had_keras and "keras" in sys.modules:  # then it did not know of the dtype
            with _making(dtype):
                made = construct(self.constructor, self.function, self.spec, size)
        with _making(dtype):
            network = self._adapt(made.network, dtype)
        notes = [f"made with {', '.join(f'{k}={v!r}' for k, v in made.added.items())}"]
        notes = [*(notes if made.added else []), *network.notes]
        probe = np.random.default_rng(0).standard_normal((1, self.spec.in_channels, *size))
        run = network.run(probe, {array.part for array in network.arrays().values()})
        names = names_of(network.arrays(), list(run.outputs), network.containers, network.axes)
        options = _options(names, run.output)
        if self.weights is not None:
            graph = lower(self.spec, size, **options)
            notes.append(self._load(Built(network, graph, names), Path(self.weights)))
        network.keep()
        return _Kept(network, names, options, tuple(notes))

    def _adapt(self, made: Any, dtype: str) -> ForeignNetwork:
        for known in _imported_frameworks():
            adapted: ForeignNetwork | None = known.adapt(made, dtype, self.spec.spatial_dims)
            if adapted is not None:
                return adapted
        raise ConstructorError(
            f"{self.constructor.text} gives a {type(made).__name__}, but should give a "
            "torch.nn.Module, a keras.Model or a flax.nnx.Module"
        )

    def _load(self, built: Built, path: Path) -> str:
        """Load a weight file by the framework's own means, or else by a layout; the text says
        which."""
        try:
            built.network.load(path)
            return f"weights of {path} as its framework loads them"
        except Exception as own:
            reason = own
        try:
            with open_weights(path, otherwise=self.spec) as found:
                arrays = found.arrays()
                check_weights(built.graph, arrays)
                self.write_weights(built, built.graph, arrays)
                return f"weights of {path}, which has the layout {found.layout.name}"
        except (DensespecError, KeyError) as error:
            first = str(reason).strip().partition("\n")[0]
            raise WeightsError(
                f"{path} does not fit {self.constructor.text}: its framework says {first!r}, and "
                f"by a layout: {error}"
            ) from error


def _imported_frameworks() -> Iterator[Any]:
    """Yield the modules here that know the frameworks which this process has imported."""
    for framework, module in FRAMEWORKS:
        if framework in sys.modules:
            yield importlib.import_module(f"densespec_conformance.adapters.{module}")


@contextlib.contextmanager
def _making(dtype: str) -> Iterator[None]:
    """Seed generators and set the default dtype of frameworks for a while, to call a
    constructor."""
    random.seed(0)
    np.random.seed(0)
    with contextlib.ExitStack() as stack:
        for known in _imported_frameworks():
            stack.enter_context(known.making(dtype))
        yield


def _options(names: ForeignNames, output: np.ndarray) -> dict[str, Any]:
    """Find the options of ``densespec.build`` for what a network ends in, which its output
    shows."""
    try:
        headless = not names.has_classifier
    except WeightsError:
        return {}
    if headless:
        return {"include_top": False} | ({"pooling": "avg"} if output.ndim == 2 else {})
    return {"classifier_activation": "softmax"} if _is_softmax(output) else {}


SUM_TO_ONE = 1e-2
"""A softmax may have a sum that differs from 1 by this much, in any dtype."""


def _is_softmax(output: np.ndarray) -> bool:
    sums = output.sum(axis=1, dtype=np.float64)
    several = output.ndim == 2 and output.shape[1] > 1
    return bool(several and output.min() >= 0 and np.abs(sums - 1).max() < SUM_TO_ONE)


def _values(model: Built, inputs: Arrays, outputs: Arrays) -> Arrays:
    """Find the values of nodes in what was seen of the parts that have weights."""
    graph = model.graph
    values: Arrays = {}
    for node in graph.nodes:
        part = model.part_of.get(node.name)
        if part is None or part not in outputs:
            continue
        before, seen = graph[node.inputs[0]], outputs[part]
        if inputs[part].shape[1:] == before.shape:  # it may be padded, or pooled beforehand
            values.setdefault(before.name, inputs[part])
        if not _is_pooled_beforehand(graph, node, seen):
            values.setdefault(_seen_as(model, node, inputs[part], seen).name, seen)
    return values


def _seen_as(model: Built, node: Node, x: np.ndarray, value: np.ndarray) -> Node:
    """Find the node whose value a part shows. Some norms have the activation after them in them:
    then the value is nearer to what that gives."""
    after = model.graph.reader(node)
    if not isinstance(node.op, NORMS) or after is None or not isinstance(after.op, ACTIVATIONS):
        return node
    if isinstance(after.op, Relu):
        return after if value.min() >= 0 else node
    plain = _computed(model, node, x.astype(np.float64))
    activated = _computed(model, after, plain)
    return after if np.abs(value - activated).sum() < np.abs(value - plain).sum() else node


def _computed(model: Built, node: Node, x: np.ndarray) -> np.ndarray:
    """Compute a node as the reference does, with the arrays that the network has."""
    keys = {weight.name: model.match.keys[weight.name] for weight in node.weights}
    arrays = canonical_arrays(model.network, keys)
    weights = {weight.short: arrays[weight.name].astype(np.float64) for weight in node.weights}
    return KERNELS[type(node.op)].forward(node.op, Context(node.name, weights), x)


def _is_pooled_beforehand(graph: Graph, node: Node, value: np.ndarray) -> bool:
    """Tell whether a convolution reads what is pooled already. That gives the same as to pool
    afterwards, and is cheaper."""
    after = graph.reader(node)
    while after is not None and isinstance(after.op, Dropout):
        after = graph.reader(after)
    pooled = isinstance(node.op, Conv) and after is not None and isinstance(after.op, AvgPool)
    return pooled and after is not None and value.shape[1:] == after.shape
