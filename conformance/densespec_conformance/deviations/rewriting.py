"""A variant's graph is changed: other ops, ops added or left out, another order."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from densespec.network import ops
from densespec.network.graph import Graph, Node
from densespec_conformance.deviations.deviation import Change, NotApplicable
from densespec_conformance.deviations.kernels import Identity
from densespec_conformance.deviations.variant import Variant

Rewrite = Callable[[Any, Graph], Any]
"""Returns another op for a node's op."""


def replace_ops(names: str, kind: type | tuple[type, ...], rewrite: Rewrite) -> Change:
    """Exchange the op of every node of a kind whose name fits a pattern.

    Raises, when applied:
        NotApplicable: No op is exchanged.
    """

    def change(variant: Variant) -> Variant:
        graph = variant.graph
        nodes = tuple(
            replace(node, op=rewrite(node, graph)) if _fits(node, names, kind) else node
            for node in graph.nodes
        )
        if nodes == graph.nodes:
            raise NotApplicable
        return replace(variant, graph=relinked(Graph(graph.spec, nodes)))

    return change


def on(names: str, kind: type, **fields: Any) -> Change:
    """Change fields of every op of a kind whose node's name fits a pattern."""
    return replace_ops(names, kind, lambda node, graph: replace(node.op, **fields))


def without(names: str, kind: type) -> Change:
    """Leave out the ops of a kind."""
    return replace_ops(names, kind, lambda node, graph: Identity())


def after(names: str, kind: type, make: Callable[[Node], Any], *, seen: bool) -> Change:
    """Put an op behind every node of a kind.

    Args:
        seen: Whether the node's value is seen with the new op done.
    """

    def change(variant: Variant) -> Variant:
        graph, shown = variant.graph, dict(variant.shown)
        nodes: list[Node] = []
        renamed: dict[str, str] = {}
        for node in graph.nodes:
            inputs = tuple(renamed.get(name, name) for name in node.inputs)
            nodes.append(replace(node, inputs=inputs))
            if _fits(node, names, kind):
                extra = f"{node.name}+"
                while any(extra == other.name for other in nodes):
                    extra += "+"
                nodes.append(Node(extra, make(node), (node.name,), node.shape, node.frozen))
                renamed[node.name] = extra
                if seen:
                    shown[node.name] = extra
        if not renamed:
            raise NotApplicable
        return replace(variant, graph=relinked(Graph(graph.spec, tuple(nodes))), shown=shown)

    return change


def reorder(parts: str, order: Sequence[str]) -> Change:
    """Put the nodes of every part whose name fits a pattern, such as ``transition*``, into another
    order by their last names. Names that a part lacks are passed over.

    Raises, when applied:
        NotApplicable: Every part has that order already.
    """

    def change(variant: Variant) -> Variant:
        graph = variant.graph
        chains: dict[str, list[Node]] = {}
        for node in graph.nodes:
            part, _, short = node.name.rpartition(".")
            if short in order and fnmatch.fnmatchcase(part, parts):
                chains.setdefault(part, []).append(node)
        for chain in chains.values():
            wanted = sorted(chain, key=lambda node: order.index(node.name.rpartition(".")[2]))
            if wanted != chain:
                graph = _rechained(graph, chain, wanted)
        if graph is variant.graph:
            raise NotApplicable
        return replace(variant, graph=relinked(graph))

    return change


def _rechained(graph: Graph, chain: Sequence[Node], wanted: Sequence[Node]) -> Graph:
    (before,) = chain[0].inputs
    last, new_last = chain[-1].name, wanted[-1].name
    at = graph.nodes.index(chain[0])
    linked, source = [], before
    for node in wanted:
        linked.append(replace(node, inputs=(source,)))
        source = node.name
    names = {node.name for node in chain}
    nodes: list[Node] = []
    for index, node in enumerate(graph.nodes):
        if index == at:
            nodes += linked
        if node.name not in names:
            inputs = tuple(new_last if name == last else name for name in node.inputs)
            nodes.append(replace(node, inputs=inputs))
    return Graph(graph.spec, tuple(nodes))


def relinked(graph: Graph) -> Graph:
    """Return the graph the channels and shapes that follow from its ops and their order."""
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        if not node.inputs:
            nodes[node.name] = node
            continue
        shapes = [nodes[name].shape for name in node.inputs]
        op, channels = node.op, shapes[0][0] or 0
        if isinstance(op, ops.Conv):
            op = replace(op, in_channels=channels)
        elif isinstance(op, ops.BatchNorm):
            op = replace(op, channels=channels)
        elif isinstance(op, ops.Dense):
            op = replace(op, features=channels)
        nodes[node.name] = replace(node, op=op, shape=op.output(*shapes))
    return Graph(graph.spec, tuple(nodes.values()))


def _fits(node: Node, names: str, kind: type | tuple[type, ...]) -> bool:
    patterns = names.split()
    named = any(fnmatch.fnmatchcase(node.name, pattern) for pattern in patterns)
    return named and isinstance(node.op, kind)
