"""An exported file is made into a backend of the one network that it is.

It can be run, and nothing more: its weights are its own, folded and laid out as its runtime likes
them. So what it should compute is told by the weights that it was exported from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densespec.backends import DataFormat
from densespec.deploy.network import ExportedProgram
from densespec.errors import WeightsError
from densespec.network.arrays import Arrays, select_weights
from densespec.network.graph import Graph, Node, lower
from densespec.network.spec import DenseNetSpec
from densespec.recipes.recipe import TrainingRecipe
from densespec.reference.model import ReferenceModel
from densespec.weights.opening import open_weights
from densespec_conformance.asking.exported import ExportedFileError, exported_format
from densespec_conformance.asking.questions import natural_size
from densespec_conformance.asking.requests import NetworkToBuild, Unsupported

ENDS: tuple[Mapping[str, Any], ...] = (
    {},
    {"classifier_activation": "softmax"},
    {"classifier_activation": "sigmoid"},
    {"include_top": False},
    {"include_top": False, "pooling": "avg"},
    {"include_top": False, "pooling": "max"},
)
"""A network may end in these ways: they are options of ``densespec.build``."""

DISTURBED = 0.05
"""Other fusions may round other values in int8, and move an output by this part of the largest."""

Size = tuple[int, ...]


class ExportedFileBackend:
    """This is a backend of the one network that an exported file holds.

    Args:
        path: The file, or the folder.
        spec: The network that it has to be.
        weights: The weights that it was exported from.
    """

    def __init__(self, path: str, spec: DenseNetSpec, weights: str) -> None:
        self.path, self.spec, self.weights = path, spec, weights

    @functools.cached_property
    def program(self) -> ExportedProgram:
        """Read the file by its runtime.

        Raises:
            ExportedFileError: It takes something else than inputs of the spec.
        """
        load = exported_format(self.path).load
        assert load is not None, "a format without it was refused"
        program = load(Path(self.path))
        should_be = (self.spec.in_channels, *[None] * self.spec.spatial_dims)
        if program.dtype == "uint8":
            raise ExportedFileError(
                f"{self.path} takes images and prepares them: export it without what they need"
            )
        if len(program.shape) != len(should_be) + 1 or program.shape[1] != should_be[0]:
            raise ExportedFileError(
                f"{self.path} takes an input of {_shape(program.shape)}, but should take one of "
                f"{_shape((None, *should_be))}"
            )
        return program

    @functools.cached_property
    def arrays(self) -> Arrays:
        """Read the canonical arrays of the weights that it was exported from."""
        with open_weights(self.weights, otherwise=self.spec) as found:
            if found.graph.spec != self.spec:
                raise WeightsError(f"{self.weights} belongs to another network than the spec")
            return dict(found.arrays())

    @functools.cached_property
    def options(self) -> Mapping[str, Any]:
        """Choose the end that fits its output best: by its shapes, and then by its values."""
        size = tuple(
            known or usual
            for known, usual in zip(self.program.shape[2:], natural_size(self.spec), strict=True)
        )
        x = np.random.default_rng(0).standard_normal((1, self.spec.in_channels, *size))
        actual = self._output(x)
        found = {
            index: _distance(actual, expected)
            for index, expected in self._expected(x)
            if expected.shape == actual.shape and _may_end(ENDS[index], actual)
        }
        if not found:
            raise ExportedFileError(
                f"{self.path} gives {_shape(actual.shape)} for an input of {_shape(x.shape)}, "
                "which is no end of the network"
            )
        return ENDS[min(found, key=found.__getitem__)]

    def _expected(self, x: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for index, options in enumerate(ENDS):
            graph = lower(self.spec, **options)
            try:
                arrays = select_weights(graph, self.arrays)
            except WeightsError:  # of weights without a classifier
                continue
            name = graph.output.name
            yield index, ReferenceModel(graph, arrays).run(x, taps=[name])[name]

    def describe(self, size: Size | None, dtype: str) -> dict[str, Any]:
        """Say what it is, in fields of a :class:`Description`."""
        note = f"{exported_format(self.path).about}, which takes {_shape(self.program.shape)}"
        return {
            "options": self.options,
            "notes": (note,),
            "dtype": self.program.dtype,
            "input_size": self.program.shape[2:],
        }

    def construct(self, asked: NetworkToBuild) -> tuple[ExportedFileBackend, Graph]:
        """Return itself, and the graph of the network that is asked for.

        Raises:
            Unsupported: It is not of this size or dtype, or other weights are given than its own.
        """
        if asked.spec != self.spec:
            raise Unsupported("it is one network, and not any other")
        if asked.dtype != self.program.dtype:
            raise Unsupported(f"it computes in {self.program.dtype}, not in {asked.dtype}")
        self._check_size(asked.input_size)
        options: dict[str, Any] = dict(asked.options)
        graph = lower(self.spec, asked.input_size, **options)
        if asked.weights is not None and not self._has(asked.weights):
            raise Unsupported("its weights are its own, and no others can be given to it")
        return self, graph

    def _check_size(self, size: Size | None) -> None:
        sizes = self.program.shape[2:]
        wanted = size or sizes
        if any(known not in (None, side) for known, side in zip(sizes, wanted, strict=True)):
            raise Unsupported(f"it only takes images of {_shape(sizes)}")

    def _has(self, weights: Mapping[str, np.ndarray]) -> bool:
        own = self.arrays
        return all(
            name in own and np.array_equal(own[name], array) for name, array in weights.items()
        )

    def data_format(self, requested: DataFormat | None) -> DataFormat:
        return "channels_first"

    def forward(self, model: Any, graph: Graph, x: np.ndarray, taps: Sequence[str]) -> Arrays:
        """Return its output, and of what is asked for those values that its runtime shows."""
        name, output = graph.output.name, self._output(x)
        shown = self._batched(x, lambda part: self._shown(part, taps)) if len(taps) > 1 else {}
        _check_undisturbed(shown.pop(name, output), output)
        fits = {tap: shown[tap] for tap in taps if tap in shown and _fits(shown[tap], graph[tap])}
        return fits | {name: output}

    def _shown(self, x: np.ndarray, names: Sequence[str]) -> Mapping[str, np.ndarray]:
        return self.program.show(x, names) if self.program.show else {}

    def read_weights(self, model: Any, graph: Graph) -> Arrays:
        """Return the weights that it was exported from."""
        return select_weights(graph, self.arrays)

    def count_parameters(self, model: Any) -> tuple[int, int]:
        raise Unsupported("an exported file does not tell its parameters")

    def trainer(self, model: Any, graph: Graph, recipe: TrainingRecipe) -> Any:
        raise Unsupported("an exported file can't be trained")

    def _output(self, x: np.ndarray) -> np.ndarray:
        return self._batched(x, lambda part: {"": self._run(part)})[""]

    def _batched(
        self, x: np.ndarray, run: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    ) -> Arrays:
        """Run it on any number of samples; those that its one batch size lacks are repeated."""
        batch = self.program.shape[0] or len(x)
        filled = np.resize(x, (-(-len(x) // batch) * batch, *x.shape[1:]))
        parts = np.split(filled.astype(self.program.dtype), len(filled) // batch)
        found = [run(part) for part in parts]
        return {name: np.concatenate([each[name] for each in found])[: len(x)] for name in found[0]}

    def _run(self, x: np.ndarray) -> np.ndarray:
        given = self.program.run(x)
        values = (given,) if isinstance(given, np.ndarray) else given
        if len(values) != 1:
            raise ExportedFileError(
                f"{self.path} gives {len(values)} values, but one that gives one can be compared"
            )
        return np.asarray(values[0])


def _check_undisturbed(shown: np.ndarray, output: np.ndarray) -> None:
    """Check that a runtime computes the same where it has to show what is within.

    Raises:
        ExportedFileError: It does not, so that what it shows says nothing of the file.
    """
    apart = np.abs(shown.astype(np.float64) - output).max()
    if not apart <= DISTURBED * np.abs(output).max():
        raise ExportedFileError(
            "asked for values within the file, its runtime gives another output than otherwise: "
            "what it shows can't be relied on, which is a fault of the runtime"
        )


def _fits(value: np.ndarray, node: Node) -> bool:
    """Tell whether a value has the shape of a node's, of which None is any size."""
    sizes, shape = value.shape[1:], node.shape
    return len(sizes) == len(shape) and all(
        known in (None, size) for known, size in zip(shape, sizes, strict=True)
    )


def _may_end(options: Mapping[str, Any], output: np.ndarray) -> bool:
    """Tell whether an output may be what such an end gives: probabilities are from 0 to 1."""
    probabilities = "classifier_activation" in options
    return not probabilities or bool(output.min() >= 0 and output.max() <= 1)


def _distance(actual: np.ndarray, expected: np.ndarray) -> float:
    distance = float(np.abs(actual.astype(np.float64) - expected).max())
    return distance if np.isfinite(distance) else np.inf


def _shape(shape: Sequence[int | None]) -> str:
    return "x".join("any" if n is None else str(n) for n in shape)
