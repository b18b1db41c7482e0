"""Reads weights in memory: a ``state_dict``, a tree of variables, or a model of any framework.

It imports no framework, and only asks models and arrays for their attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from densespec.backends import get_backend, graph_now
from densespec.errors import WeightsError, shown
from densespec.network.graph import Graph
from densespec.network.spec import DenseNetSpec
from densespec.weights.containers.base import EXTENDED, numpy_dtype
from densespec.weights.containers.torch_state import WRAPPERS
from densespec.weights.layouts import canonical
from densespec.weights.opening import IdentifiedWeights, identify
from densespec.weights.reading import ReadingOptions
from densespec.weights.stated.torch_modules import KEY, as_text, facts
from densespec.weights.tensors import Tensor, Tensors

DEEPEST = 16
"""At most this many tables within tables are opened."""


@runtime_checkable
class Built(Protocol):
    """Describes what a model was built from, as densespec keeps it in the model's ``densespec``."""

    @property
    def backend(self) -> str: ...

    @property
    def graph(self) -> Graph: ...


@runtime_checkable
class HasState(Protocol):
    """This is a model with a ``state_dict``, as PyTorch has it."""

    def state_dict(self) -> Mapping[str, Any]: ...


@runtime_checkable
class HasWeights(Protocol):
    """This is a model with a list of ``weights``, as Keras has it."""

    @property
    def weights(self) -> list[Any]: ...

    def to_json(self) -> str: ...


def identified_in_memory(
    given: Any, reading: ReadingOptions, otherwise: DenseNetSpec | None
) -> IdentifiedWeights:
    """Work out which network arrays or a model in memory are of.

    Args:
        given: A model, or arrays by the names of any program.
        reading: What a user says of them.
        otherwise: The spec to take if it can't be worked out.

    Raises:
        WeightsError: It is nothing of the kind, or of no DenseNet, or does not fit the network.
    """
    tensors, metadata, container = _named(given, reading.key)
    return identify(tensors, metadata, container, reading, otherwise=otherwise)


def _named(given: Any, key: str | None) -> tuple[Tensors, Mapping[str, str], str]:
    """Return arrays by name, the texts beside them, and the kind of file with such names."""
    built = getattr(given, "densespec", None)
    if isinstance(built, Built):
        graph = graph_now(built.backend, given, built.graph)
        arrays = get_backend(built.backend).read_weights(given, graph)
        return _tensors(arrays), canonical.metadata(graph), "safetensors"
    if isinstance(given, Mapping):
        tensors = _tensors(_unwrapped(given, key))
        return tensors, {}, _container(tensors)
    if isinstance(given, HasWeights):  # on PyTorch it has a state, too
        return _tensors(_variables(given)), _stated(given), "keras-legacy"
    if isinstance(given, HasState):
        return _tensors(given.state_dict()), _modules(given), "torch"
    raise WeightsError(
        f"weights are a {type(given).__name__}, but should be the path of a weight file, arrays by "
        "name, or a model that has a state_dict or Keras's weights"
    )


def _unwrapped(table: Mapping[str, Any], key: str | None) -> Mapping[str, Any]:
    """Find the table with the arrays within tables: a checkpoint keeps its state under a key.

    Raises:
        WeightsError: There is no table under a key.
    """
    for part in key.split(".") if key else ():
        if not isinstance(table.get(part), Mapping):
            raise WeightsError(f"there is no table under the key {shown(key)}, but {_keys(table)}")
        table = table[part]
    while wrapper := next((w for w in WRAPPERS if _wraps(table, w)), None):
        table = table[wrapper]
    return table


def _wraps(table: Mapping[str, Any], key: str) -> bool:
    """Say whether a table has another under a key, and is no tree of Flax's."""
    return isinstance(table.get(key), Mapping) and "batch_stats" not in table


def _keys(table: Mapping[str, Any]) -> str:
    return shown([str(key) for key in table])


def _variables(model: HasWeights) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable in model.weights:
        path = str(getattr(variable, "path", None) or variable.name)
        if path in found:
            raise WeightsError(f"two of the model's variables are called {shown(path)}")
        found[path] = variable
    return found


def _stated(model: HasWeights) -> dict[str, str]:
    """Return the config of a model, if its class has one."""
    try:
        return {"config": model.to_json()}
    except (NotImplementedError, TypeError, ValueError):
        return {}


def _modules(model: HasState) -> dict[str, str]:
    """Describe the modules of a model, if it is one of PyTorch's."""
    named: Iterable[tuple[str, object]] = getattr(model, "named_modules", tuple)()
    modules = {path: facts(_kind(module), vars(module)) for path, module in named}
    return {KEY: as_text(modules)} if modules else {}


def _kind(module: object) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _container(tensors: Tensors) -> str:
    """Name the kind of file that has such names."""
    if any("/vars/" in name for name in tensors):
        return "keras-weights"
    if any(name.startswith(("params/", "batch_stats/")) for name in tensors):
        return "msgpack"
    if any(name.removesuffix("/value").endswith("/scale") for name in tensors):
        return "msgpack"  # a tree of nnx, which has no collections
    return "keras-legacy" if any("/" in name for name in tensors) else "torch"


# Arrays


def _tensors(table: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: _tensor(name, value) for name, value in _flat(table, "", DEEPEST)}


def _flat(table: Mapping[str, Any], path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the arrays in nested tables under paths joined by "/"; other things are left out."""
    for name, value in table.items():
        if isinstance(value, Mapping) and depth:
            yield from _flat(value, f"{path}{name}/", depth - 1)
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            yield f"{path}{name}", value


def _tensor(name: str, value: Any) -> Tensor:
    dtype = str(getattr(value.dtype, "name", value.dtype)).rpartition(".")[2]
    return Tensor(tuple(map(int, value.shape)), dtype, lambda: _array(name, value, dtype))


def _array(name: str, value: Any, dtype: str) -> np.ndarray:
    """Read the numbers of an array of any framework, on any device.

    Raises:
        WeightsError: They can't be converted to numpy.
    """
    if hasattr(value, "get_value"):  # a variable of Flax's
        value = value.get_value()
    inner = getattr(value, "value", value)  # of a variable of Keras's
    value = value if callable(inner) else inner
    try:
        if hasattr(value, "detach"):  # a tensor of PyTorch's
            value = value.detach().cpu()
            value = value.float() if dtype in EXTENDED else value
        return np.asarray(value).astype(numpy_dtype(dtype), copy=False)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{name}: a {dtype} that numpy can't take: {error}") from error
