"""Nests parts of the graph by name as modules, each of which runs its children in graph order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from densespec.backends import DataFormat
from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec_flax.layers import apply, module_of
from densespec_flax.precision import Precision

Array = jax.Array


@dataclass(frozen=True)
class Call:
    """Holds what goes with the input of one call, beyond the modules.

    Attributes:
        factors: The factors that take the place of dropouts, (batch, *spatial, channels), by the
            names of their nodes.
        rngs: The source of randomness of the other dropouts; None for their own.
        shown: The function that takes the value of every node by name; None if nobody wants the
            values.
    """

    factors: Mapping[str, Array] = field(default_factory=dict)
    rngs: nnx.Rngs | None = None
    shown: dict[str, Array] | None = None


@dataclass(frozen=True)
class Child:
    """Describes one step of a part: its attribute of that name if there is one, or a function.

    Attributes:
        reads: The names of the nodes whose values it reads.
        node: The node whose value it gives.
    """

    name: str
    reads: tuple[str, ...]
    node: Node


class Tree(nnx.Module):
    """Holds modules by the names of nodes, and the order in which they compute.

    Args:
        nodes: The nodes that they compute.
        depth: The number of names that lead to the tree itself.
        make: The function that makes the module of a node; it returns None if a function computes
            the node.
    """

    def __init__(self, nodes: Sequence[Node], depth: int, make: Any) -> None:
        children: list[Child] = []
        for name, group in itertools.groupby(nodes, lambda node: node.name.split(".")[depth]):
            members = list(group)
            inner = {node.name for node in members}
            outer = dict.fromkeys(n for node in members for n in node.inputs if n not in inner)
            children.append(Child(name, tuple(outer), members[-1]))
            leaf = members[0].name.count(".") == depth
            module = make(members[0]) if leaf else Part(members, depth + 1, make)
            if module is not None:
                setattr(self, name, module)
        self._children = tuple(children)

    def _run(self, children: Iterable[Child], x: Array, call: Call) -> Array:
        values: dict[str, Array] = {}
        for child in children:
            values.setdefault(child.reads[0], x)
            x = self._computed(child, [values[name] for name in child.reads], call)
            values[child.node.name] = x
            if call.shown is not None:
                call.shown[child.node.name] = x
        return x

    def _computed(self, child: Child, inputs: Sequence[Array], call: Call) -> Array:
        module: Any = getattr(self, child.name, None)
        if isinstance(module, Part):
            return module(inputs[0], call)
        if child.node.name in call.factors:
            return inputs[0] * call.factors[child.node.name].astype(inputs[0].dtype)
        if module is None:
            return apply(child.node.op, *inputs)
        if isinstance(module, nnx.Dropout):
            return module(inputs[0], rngs=call.rngs)
        return module(*inputs)


class Part(Tree):
    """Represents a part of the network with one input and one output, such as a dense block."""

    def __call__(self, x: Array, call: Call | None = None) -> Array:
        """Compute the part's output of its input, both (batch, *spatial, channels)."""
        return self._run(self._children, x, call or Call())


class DenseNet(Tree):
    """Represents a DenseNet that takes (batch, *spatial, channels) to logits or features.

    Modules have the names of the graph's nodes, such as ``block1.layer1.conv1``. Like all modules
    of Flax, a new one is in training mode: ``model.eval()`` changes that.

    Args:
        arrays: Every array of the network, by canonical name.
        data_format: The layout of the input, and of feature maps that are the output. Inside,
            everything is channels last.
        rngs: The source of randomness of dropouts, by its stream ``dropout``.
    """

    def __init__(
        self,
        graph: Graph,
        arrays: Mapping[str, np.ndarray],
        *,
        precision: Precision,
        data_format: DataFormat = "channels_last",
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(graph.nodes[1:], 0, lambda node: module_of(node, arrays, precision, rngs))
        self.graph, self.precision, self.data_format = graph, precision, data_format

    def __call__(
        self, x: Any, *, masks: Mapping[str, Any] | None = None, rngs: nnx.Rngs | None = None
    ) -> Any:
        """Compute logits (batch, classes), or what else the network ends in.

        One that was built with ``outputs`` gives a tuple of their values, in that order.

        Args:
            x: Images (batch, *spatial, channels), or (batch, channels, *spatial) where the network
                was built for that. They are cast to the type in which it computes.
            masks: One for each dropout in training mode, as ``densespec.data.dropout_masks`` draws
                them, (batch, channels, *spatial): 1 keeps a value, 0 drops it. Without masks,
                dropouts draw.
            rngs: What they draw from; None for the streams that they have.

        Raises:
            ValueError: The input has another shape than the network was built for.
        """
        entry, factors = self._entry(x), self._factors(masks)
        if not self.graph.outputs:
            return self._outer(self._whole(entry, Call(factors, rngs)))
        shown: dict[str, Array] = {}
        self._whole(entry, Call(factors, rngs, shown))
        return tuple(self._outer(shown[node.name]) for node in self.graph.given)

    def features(self, x: Any, *, rngs: nnx.Rngs | None = None) -> Array:
        """Compute the feature maps before the global pool; see :meth:`__call__`."""
        return self._outer(self._body(self._entry(x), Call(rngs=rngs)))

    def values(self, x: Any) -> dict[str, Array]:
        """Compute the values of nodes by name, maps (batch, *spatial, channels).

        Nodes that are computed together with others have none.
        """
        shown: dict[str, Array] = {}
        self._whole(self._entry(x), Call(shown=shown))
        return shown

    @property
    def body(self) -> Graph:
        """Return the network before the global pool."""
        nodes = tuple(itertools.takewhile(_before_head, self.graph.nodes))
        stages = {node.stage for node in nodes}
        outputs = tuple(name for name in self.graph.outputs if name in stages)
        return Graph(self.graph.spec, nodes, outputs)

    def module(self, name: str) -> Any:
        """Return the module of a node by its name; None if there is none, as for pools."""
        found: Any = self
        for part in name.split("."):
            found = getattr(found, part, None)
        return found

    def _whole(self, x: Array, call: Call) -> Array:
        head = itertools.dropwhile(lambda child: _before_head(child.node), self._children)
        return self._run(head, self._body(x, call), call)

    def _body(self, x: Array, call: Call) -> Array:
        """Compute the feature maps before the global pool, channels last."""
        body = itertools.takewhile(lambda child: _before_head(child.node), self._children)
        return self._run(body, x, call)

    def _entry(self, x: Any) -> Array:
        x = jnp.asarray(x, self.precision.dtype)
        self._check_shape(x.shape)
        return jnp.moveaxis(x, 1, -1) if self.data_format == "channels_first" else x

    def _outer(self, y: Array) -> Array:
        return jnp.moveaxis(y, -1, 1) if self.data_format == "channels_first" else y

    def _factors(self, masks: Mapping[str, Any] | None) -> dict[str, Array]:
        """Turn masks into factors of values, channels last."""
        dropouts = {node.name: node.drop_rate for node in self.graph.dropouts}
        if masks is not None and masks.keys() != dropouts.keys():
            raise ValueError(
                f"masks of {sorted(masks)}, but there should be one of each dropout that drops: "
                f"{sorted(dropouts)}"
            )
        dtype = self.precision.dtype
        return {
            name: jnp.moveaxis(jnp.asarray(mask, dtype), 1, -1) / (1 - dropouts[name])
            for name, mask in (masks or {}).items()
        }

    def _check_shape(self, shape: Sequence[int]) -> None:
        channels, *sizes = self.graph.input.shape
        last = self.data_format == "channels_last"
        wanted = (*sizes, channels) if last else (channels, *sizes)
        given = shape[1:]
        fits = len(given) == len(wanted) and all(
            size in (None, actual) for size, actual in zip(wanted, given, strict=True)
        )
        if not fits:
            shown = ", ".join("any" if size is None else str(size) for size in ("batch", *wanted))
            raise ValueError(
                f"input of shape {tuple(shape)}, but this network was built for ({shown}): build "
                "it with another input_shape or data_format, or without input_shape for any size"
            )


def _before_head(node: Node) -> bool:
    return not isinstance(node.op, ops.GlobalPool)
