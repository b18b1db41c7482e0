"""A model whose network is exported is held to the reference as closely as it rounds itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from densespec import DenseNetSpec
from densespec.deploy.check import TOLERANCES, WrongExport, check_model
from densespec.deploy.network import GivenModel
from densespec.network.graph import Graph, lower
from densespec.network.initial import initial_weights
from densespec.network.ops import BatchNorm, Relu
from densespec.reference.kernels import KERNELS, Kernel
from densespec.reference.model import ReferenceModel

NETWORKS = {
    "torchvision-like": DenseNetSpec(
        blocks=(2, 2),
        growth_rate=4,
        bottleneck_width=2,
        compression=0.5,
        stem_kind="conv-norm-relu",
        stem_pool=3,
        stem_stride=2,
    ),
    "one class": DenseNetSpec(blocks=(1, 2), growth_rate=3, classes=1),
    "several labels": DenseNetSpec(blocks=(3,), growth_rate=5, classes=40, head_units=(7,)),
}
every_network = pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)


@dataclass(frozen=True)
class Rounding:
    """A kernel that rounds what another one gives, and what it takes, to a type."""

    kernel: Kernel
    dtype: Any

    def forward(self, op: Any, ctx: Any, *xs: np.ndarray) -> np.ndarray:
        weights = {name: self._rounded(array) for name, array in ctx.weights.items()}
        taken = replace(ctx, weights=weights)
        return self._rounded(self.kernel.forward(op, taken, *map(self._rounded, xs)))

    def _rounded(self, x: np.ndarray) -> np.ndarray:
        return x.astype(self.dtype).astype(np.float64)


def given(spec: DenseNetSpec, run: Callable[[Graph, Any, np.ndarray], np.ndarray]) -> GivenModel:
    graph = lower(spec)
    arrays = initial_weights(graph, 3)
    return GivenModel(graph, arrays, lambda x: (run(graph, arrays, x),))


def exact(graph: Graph, arrays: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(ReferenceModel(graph, arrays)(x.astype(np.float64)))


@every_network
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_a_model_may_round_as_its_type_does(spec: DenseNetSpec, dtype: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    kernels = {op: Rounding(kernel, kind) for op, kernel in KERNELS.items()}

    def run(graph: Graph, arrays: Any, x: np.ndarray) -> np.ndarray:
        return np.asarray(ReferenceModel(graph, arrays, kernels=kernels)(x.astype(np.float64)))

    check_model(given(spec, run))


def one_percent_more(graph: Graph, arrays: Any, x: np.ndarray) -> np.ndarray:
    return 1.01 * exact(graph, arrays, x)


def with_another_epsilon(graph: Graph, arrays: Any, x: np.ndarray) -> np.ndarray:
    nodes = (
        replace(node, op=replace(node.op, epsilon=0.02)) if isinstance(node.op, BatchNorm) else node
        for node in graph.nodes
    )
    return exact(Graph(graph.spec, tuple(nodes)), arrays, x)


def with_leaky_relus(graph: Graph, arrays: Any, x: np.ndarray) -> np.ndarray:
    class Leaky:
        def forward(self, _op: Any, _ctx: Any, x: np.ndarray) -> np.ndarray:
            return np.where(x > 0, x, 0.02 * x)

    kernels: Any = {**KERNELS, Relu: Leaky()}
    return np.asarray(ReferenceModel(graph, arrays, kernels=kernels)(x.astype(np.float64)))


@every_network
@pytest.mark.parametrize("run", [one_percent_more, with_another_epsilon, with_leaky_relus])
def test_a_model_that_computes_something_else_is_refused(spec: DenseNetSpec, run: Any) -> None:
    with pytest.raises(WrongExport, match="computes something that its spec does not say"):
        check_model(given(spec, run))


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(WrongExport):
        check_model(given(NETWORKS["one class"], lambda *given: exact(*given) * np.nan))


def test_a_change_within_rounding_alone_goes_unseen() -> None:
    little = 1 + TOLERANCES["float32"] / 2
    check_model(given(NETWORKS["one class"], lambda *given: little * exact(*given)))
