"""Reads the layers of a Keras model from its config, a JSON text, with inner models laid out flat.

Nothing is built or run. Keras 2 and 3 state in different ways which layer reads which.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

from densespec.errors import DensespecError, WeightsError, bare, shown
from densespec.texts import JsonError, parsed_json
from densespec.weights.stated.network import StatedOtherwise

FUNCTIONAL, SEQUENTIAL = ("Functional", "Model"), "Sequential"
OWN = "densespec>"
"""The registered names of densespec's own classes begin with this."""

DEEPEST = 8
"""At most this many models may lie within one another."""

UNKNOWN = "its config states no model that is known"
"""A message says this of a config that Keras did not write."""

MOST_LAYERS = 20_000
LONGEST_CONFIG = 2**26


@dataclass(frozen=True)
class StatedLayer:
    """Describes a layer of a model.

    Attributes:
        name: Its path: the names of the models that it is in, and its own.
        kind: The name of its class.
        config: The arguments that its class was made with.
        sources: The paths of the layers that it reads.
        arguments: The further arguments that it is called with.
        registered: The name under which its class is registered, if it is not Keras's own.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    sources: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    registered: str = ""

    def __str__(self) -> str:
        return f"layer {shown(self.name)} ({bare(self.kind)})"


@dataclass(frozen=True)
class StatedModel:
    """Holds the layers that a model's output depends on, each after those that it reads.

    Attributes:
        output: The path of the last one.
    """

    layers: tuple[StatedLayer, ...]
    output: str

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """Return the paths of its layers."""
        return frozenset(layer.name for layer in self.layers)


def read_config(text: str) -> Any:
    """Parse a config.

    Raises:
        WeightsError: It is not JSON, or larger than any network's config.
    """
    if len(text) > LONGEST_CONFIG:
        raise WeightsError(f"its config has {len(text)} characters, more than any network's")
    try:
        return parsed_json(text, "its config")
    except JsonError as error:
        raise WeightsError(str(error)) from error


def model_of(entry: Mapping[str, Any]) -> StatedModel:
    """Lay a model of one output out flat; see :func:`models_of`.

    Raises:
        WeightsError: As there, or it has several outputs.
    """
    models = models_of(entry)
    if len(models) > 1:
        raise _too_many(models, "outputs")
    return models[0]


def models_of(entry: Mapping[str, Any]) -> tuple[StatedModel, ...]:
    """Lay a model out flat, once for each of its outputs.

    Args:
        entry: The model's class name and config, as in ``config.json`` of a ``.keras`` file.

    Raises:
        WeightsError: It has several inputs, is neither functional nor sequential, or the config is
            not Keras's; the message says which layer it is.
    """
    flat = _Flat()
    with understood(UNKNOWN):
        outputs = flat.add_model(entry, "", None, 0)
        if not outputs:
            raise _too_many(outputs, "outputs")
        return tuple(StatedModel(tuple(_needed(flat.layers, end)), end) for end in outputs)


@contextlib.contextmanager
def understood(otherwise: str, layer: str | None = None) -> Iterator[None]:
    """Refuse what raises the errors of values of another kind than Keras writes.

    Args:
        otherwise: What is said then.
        layer: The path of the layer that is read, if it is one.

    Raises:
        StatedOtherwise: Something was not as Keras writes it.
    """
    try:
        yield
    except DensespecError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise StatedOtherwise(f"{otherwise}: {shown(error)}", layer) from error


def _needed(layers: Mapping[str, StatedLayer], output: str) -> Iterator[StatedLayer]:
    wanted, found = [output], set()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted.extend(layers[name].sources)
    return (layer for name, layer in layers.items() if name in found)


class _Flat:
    def __init__(self) -> None:
        self.layers: dict[str, StatedLayer] = {}
        self._in_training: list[str] = []  # How the names in models begin that always train

    def add_model(
        self, entry: Mapping[str, Any], prefix: str, source: str | None, depth: int
    ) -> Sequence[str]:
        """Add the layers of a model that reads a source. Gives the paths of its outputs."""
        if depth > DEEPEST:
            raise WeightsError(f"more than {DEEPEST} models lie within one another")
        config = entry["config"]
        if _kind(entry) == SEQUENTIAL:
            layers = config if isinstance(config, list) else config["layers"]
            return [self._add_sequence(layers, prefix, source, depth)]
        return self._add_functional(config, prefix, source, depth)

    def _add_sequence(
        self, layers: Sequence[Mapping[str, Any]], prefix: str, source: str | None, depth: int
    ) -> str:
        for entry in layers:
            shape = _input_shape(entry["config"]) if source is None else None
            if shape is not None and entry["class_name"] != "InputLayer":
                source = self._add_input(f"{prefix}input", shape)
            if entry["class_name"] == "InputLayer" and source is not None:
                continue
            sources = () if source is None else (source,)
            source = self._add(entry, prefix, sources, {}, depth)
        if source is None:
            raise WeightsError("it states a model without layers")
        return source

    def _add_functional(
        self, config: Mapping[str, Any], prefix: str, source: str | None, depth: int
    ) -> Sequence[str]:
        entries = {_name(entry): entry for entry in config["layers"]}
        calls = {name: _call(name, entry) for name, entry in entries.items()}
        start = _only(_ends(config["input_layers"]), "inputs")
        refs = {start: source} if source is not None else {}
        for name in TopologicalSorter(
            {n: sources for n, (sources, _) in calls.items()}
        ).static_order():
            if name in refs:
                continue
            sources, arguments = calls[name]
            inputs = tuple(refs[of] for of in sources)
            refs[name] = self._add(entries[name], prefix, inputs, arguments, depth)
        return [refs[end] for end in _ends(config["output_layers"])]

    def _add(
        self,
        entry: Mapping[str, Any],
        prefix: str,
        sources: tuple[str, ...],
        arguments: Mapping[str, Any],
        depth: int,
    ) -> str:
        name = f"{prefix}{_name(entry)}"
        if _kind(entry) in (*FUNCTIONAL, SEQUENTIAL):
            (source,) = sources or (None,)
            if arguments.get("training"):
                self._in_training.append(f"{name}/")
            return _only(self.add_model(entry, f"{name}/", source, depth + 1), "outputs")
        if not isinstance(entry["config"], dict):
            raise StatedOtherwise(f"layer {shown(name)} has no config that is known", name)
        if name.startswith(tuple(self._in_training)):
            arguments = {**arguments, "training": True}
        layer = StatedLayer(
            name=name,
            kind=_plain(entry["class_name"]),
            config=entry["config"],
            sources=sources,
            arguments=arguments,
            registered=_registered(entry),
        )
        return self._keep(layer)

    def _add_input(self, name: str, shape: Sequence[Any]) -> str:
        return self._keep(StatedLayer(name, "InputLayer", {"batch_shape": shape}, ()))

    def _keep(self, layer: StatedLayer) -> str:
        if layer.name in self.layers or len(self.layers) > MOST_LAYERS:
            raise WeightsError(f"layer {shown(layer.name)} is there twice, or one of too many")
        self.layers[layer.name] = layer
        return layer.name


def _kind(entry: Mapping[str, Any]) -> str:
    """Return the name of an entry's class; densespec's own models are functional ones."""
    own = _registered(entry).startswith(OWN)
    return FUNCTIONAL[0] if own and "output_layers" in entry["config"] else str(entry["class_name"])


def _registered(entry: Mapping[str, Any]) -> str:
    """Return the name under which a class is registered: in ``.h5`` files, the class's name."""
    name = str(entry["class_name"])
    return entry.get("registered_name") or (name if ">" in name else "")


def _plain(name: str) -> str:
    return name.rpartition(">")[2]


def _name(entry: Mapping[str, Any]) -> str:
    config = entry["config"]
    name = entry.get("name") or (config.get("name") if isinstance(config, dict) else None)
    return str(name or entry["class_name"].lower())


def _input_shape(config: Any) -> Sequence[Any] | None:
    """Return the shape of a batch that a layer states, as the first layer of a Sequential may."""
    if not isinstance(config, dict):
        return None
    return config.get("batch_shape") or config.get("batch_input_shape")


def _ends(ends: Any) -> list[str]:
    """List the names of the layers at a model's inputs or outputs, which may have keys."""
    if isinstance(ends, dict):
        ends = list(ends.values())
    if ends and isinstance(ends[0], str):
        return [ends[0]]
    return [str(end[0]) for end in ends]


def _only(ends: Sequence[str], what: str) -> str:
    if len(ends) != 1:
        raise _too_many(ends, what)
    return ends[0]


def _too_many(ends: Sequence[object], what: str) -> StatedOtherwise:
    return StatedOtherwise(f"it states a model of {len(ends)} {what}, but a spec has one")


def _call(name: str, entry: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Read the names of the layers that a layer reads, and the further arguments of its call."""
    calls = entry.get("inbound_nodes") or []
    if len(calls) > 1:
        raise StatedOtherwise(
            f"layer {shown(name)} is used {len(calls)} times, but a spec's layers are used once",
            name,
        )
    if not calls:
        return [], {}
    (call,) = calls
    if isinstance(call, dict):
        arguments = call.get("kwargs") or {}
        return list(_tensors([call["args"], arguments], DEEPEST)), arguments
    tensors = [call] if isinstance(call[0], str) else call
    arguments = {key: value for tensor in tensors for key, value in (*tensor[3:], {})[0].items()}
    return [tensor[0] for tensor in tensors], arguments


def _tensors(value: Any, depth: int) -> Iterator[str]:
    """Yield the names of the layers whose outputs are among Keras 3's arguments."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        yield value["config"]["keras_history"][0]
    elif isinstance(value, dict | list | tuple) and depth:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, depth - 1)
